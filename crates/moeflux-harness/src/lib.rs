//! The op harness: a graph with its data is a [`Case`]; [`run`](run::run) runs one on any backend
//! and keeps every buffer that every operation wrote, and the state at the end; [`compare`] holds
//! two such traces to each other, bit for bit or within a tolerance.
//!
//! What a case is held to: the plain reference kernels (bit for bit, on every instruction set and
//! thread count of the machine), the same case cut into other steps or run beside strangers (bit
//! for bit), and [`oracle`], textbook arithmetic in double precision that shares no code with the
//! kernels (within [`Tolerance`]).
//!
//! [`cases`] holds the data: [`cases::seed`] the 33 cases that a backend must pass first,
//! [`cases::one_op`] random cases of every operation, [`cases::model`] whole models with random
//! weights. Nothing here reads a file or knows a device.

// Heads, rows and channels are indexed together over several arrays: indices read best.
#![allow(clippy::needless_range_loop)]

pub mod backends;
mod case;
pub mod cases;
pub mod compare;
mod error;
pub mod oracle;
mod parts;
mod random;
pub mod run;
mod trace;
mod vary;

pub use case::{Case, CaseSpan, CaseStep, Tolerance};
pub use error::HarnessError;
pub use parts::{affine4_matrix, coded_matrix};
pub use random::Random;
pub use trace::{OpResult, Timeline, Trace};
