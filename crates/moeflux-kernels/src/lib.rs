//! CPU kernels in one canonical order, bit for bit equal on every instruction set, and their
//! thread pool.
//!
//! Slices in, slices out. [`Cpu`] holds an instruction set and a pool and offers one method an
//! operation; [`mod@reference`] holds the same operations as plain serial loops and is the
//! specification: for any input, any [`Isa`] and any thread count, a `Cpu` method writes the bits
//! that the function of the same name in `reference` writes. (A NaN is only promised to be a NaN.)
//!
//! The canonical order: 16-lane partial sums with fused multiply-adds and a fixed tree for float
//! dot products and sums; exact integer dots of groups, added in order within segments of
//! [`SEGMENT`] elements, for integer-coded weights, which lie in tiles of 16 rows ([`arrange`]; four
//! partial sums along the row where their activations stay f32); in-order recurrences; attention by chunks of
//! [`KV_CHUNK_TOKENS`] positions; our own exp, sigmoid, softplus, sine and cosine.
//!
//! This crate knows nothing of files, models or devices.

// Lanes, rows and tokens are indexed together over several arrays: indices read best.
#![allow(clippy::needless_range_loop)]

mod add_bias;
mod affinity;
mod attention;
mod check;
mod choose_entries;
mod coding;
mod combine;
mod compress;
mod conv1d;
mod cpu;
mod disjoint;
mod elementwise;
mod error;
mod gated_delta;
mod gated_streams;
mod glu;
mod grouped_router;
mod isa;
mod kv;
mod lanes;
mod layer_norm;
mod lines;
pub mod math;
mod matmul;
mod matrix;
mod memory_rate;
mod ngram;
mod peak;
mod pool;
mod quantize;
mod rearrange;
pub mod reference;
mod rms_norm;
mod rope;
mod router;
mod streams;
mod token_router;

pub use attention::{AttentionShape, AttentionSpan, Blocks, Entries, KV_CHUNK_TOKENS};
pub use choose_entries::{IndexShape, IndexSpan};
pub use coding::{Coded, Coding, Rounding, arrange};
pub use compress::{CompressShape, CompressSpan};
pub use conv1d::ConvSpan;
pub use cpu::Cpu;
pub use error::KernelError;
pub use gated_delta::{Decay, DeltaShape, DeltaSpan, HeadOrder};
pub use glu::Glu;
pub use grouped_router::{GroupedRouting, Scores};
pub use isa::Isa;
pub use kv::{Counted, KV_PAGE_TOKENS, KvPage, KvType};
pub use matmul::{F8, F8_BLOCK, F8Scales, HeadRows, MatmulJob};
pub use matrix::{Matrix, MatrixData};
pub use memory_rate::{MemoryRate, memory_rate};
pub use ngram::NgramRule;
pub use pool::{Settled, ThreadPool};
pub use quantize::Quantized;
pub use rearrange::Piece;
pub use rope::RopeStyle;
pub use streams::StreamRule;

/// Inner elements whose group sums are added up before they join a row's total (integer-coded
/// weights).
pub const SEGMENT: usize = 512;
