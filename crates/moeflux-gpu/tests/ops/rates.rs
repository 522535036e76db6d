//! What devices are measured by.

use moeflux_gpu::View;
use moeflux_gpu::ops::{self, PART_WORDS};

use crate::common::gpu;
use crate::{recorder, upload_words, view, words};

#[test]
fn every_word_of_a_part_is_in_its_sum() {
    let (gpu, mut r) = recorder();
    for len in [4, 1020, PART_WORDS, PART_WORDS + 4, 5 * PART_WORDS - 8] {
        let x: Vec<u32> = (0..len as u32)
            .map(|i| i.wrapping_mul(0x9e37_79b9))
            .collect();
        let sum = |part: &[u32]| {
            part.iter()
                .fold(0, |sum: u32, &word| sum.wrapping_add(word))
        };
        let expected: Vec<u32> = x.chunks(PART_WORDS).map(sum).collect();
        let (dx, out) = (
            upload_words(&gpu, &x),
            upload_words(&gpu, &vec![7; expected.len()]),
        );
        let sums = View::from(&out);
        ops::word_sums(&mut r, view(&dx, len), sums).expect("it runs");
        assert_eq!(words(&mut r, &out, expected.len()), expected, "{len} words");
    }
    let (dx, out) = (upload_words(&gpu, &[1; 8]), upload_words(&gpu, &[0; 4]));
    let refused = ops::word_sums(&mut r, view(&dx, 6), View::from(&out));
    assert!(refused.unwrap_err().to_string().contains("6 words"));
}

#[test]
fn a_device_has_rates() {
    let rates = moeflux_gpu::rates(&gpu()).expect("it can be measured");
    for rate in [
        rates.memory_bytes_per_second,
        rates.multiply_adds_per_second,
        rates.transfer_bytes_per_second,
    ] {
        assert!(rate.is_finite() && rate > 1e6, "{rates:?}");
    }
}
