//! The commands, one file each.

pub mod bench;
pub mod chat;
pub mod completions;
#[cfg(feature = "gpu")]
pub mod devices;
pub mod eval_answers;
pub mod eval_importance;
pub mod eval_kl;
pub mod eval_logits;
pub mod eval_ppl;
pub mod eval_text;
pub mod inspect;
pub mod man;
pub mod pack;
pub mod plan;
pub mod pull;
mod pull_pack;
pub mod run;
#[cfg(feature = "gpu")]
mod self_test;
pub mod serve;
pub mod trace;
