//! The cases: data, and nothing about backends.

pub mod model;
pub mod one_op;
pub mod seed;
