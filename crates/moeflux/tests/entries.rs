//! Layers that see windows of positions as one entry each: sessions are rewound, saved and taken
//! back in the middle of such windows with the same bits, and entries take the memory of their own.

mod common;

use common::back::{come_back, in_chunks, take_back};
use common::{fixture, open, options};

/// Entries of 4 positions in two layers, of 16 in two; indexes of windows of 4 positions, which are
/// attended to themselves; blocks of 4 positions and of 8.
const MODELS: [&str; 4] = ["deepseek_v4", "glm5_next", "qwen4_exp_text", "qwen4_exp"];

#[test]
fn tokens_on_trial_are_taken_back_in_the_middle_of_windows() {
    for model in MODELS {
        take_back(model, &[2, 14, 15, 60, 61, 62, 63, 64, 90]);
    }
    for model in &MODELS[..3] {
        take_back(model, &[126, 143]);
    }
}

#[test]
fn a_checkpoint_within_a_window_is_come_back_to() {
    for model in MODELS {
        come_back(model, &[1, 5, 70, 94, 95, 96]);
    }
}

#[test]
fn chunks_of_any_size_give_the_same_bits() {
    for model in MODELS {
        in_chunks(model, &[1, 3, 17, 64]);
    }
}

#[test]
fn entries_take_a_fraction_of_what_positions_take() {
    let taken = |model| open(&fixture(model), &options()).info().token_state_bytes;
    // Two layers have an entry of 48 elements, and one of their index of 32, for 4 positions; two
    // have an entry of 48 for 16. Elements are binary16; windows do not grow.
    let (of_four, of_sixteen) = ((48 + 32) * 2 / 4, 48 * 2 / 16);
    assert_eq!(taken("deepseek_v4"), 2 * of_four + 2 * of_sixteen);
    // Three layers have a latent of 32 elements for each position; two have an entry of 16 for 4.
    let (latent, entry) = (32 * 2, 16 * 2 / 4);
    assert_eq!(taken("glm5_next"), 3 * latent + 2 * entry);
}
