//! Runs Mixture-of-Experts language models far larger than memory: dense weights stay resident,
//! routed experts stream from storage into a fixed arena of slots.
//!
//! An [`Engine`] is a loaded model: immutable and shareable. A [`Session`] is one timeline of
//! tokens with its state: mutable, and a value that can be saved and restored. This crate knows
//! nothing of HTTP or terminals.

pub mod backend;
pub mod config;
pub mod cost;
pub mod draft;
mod engine;
mod error;
pub mod evaluate;
pub mod generate;
mod gguf;
pub mod graph;
mod huge_pages;
mod importance;
mod info;
pub mod memory;
pub mod models;
mod options;
mod pack;
pub mod sampling;
mod session;
pub mod text;
pub mod weights;

pub use engine::{Best, Engine, GraphRunner, KernelRate, Logits, MemoryPlan, Span, Stats, Want};
pub use error::Error;
pub use gguf::{GgufInfo, model_path};
pub use importance::ImportanceRecorder;
pub use info::{ModelInfo, inspect};
pub use options::{Activations, EngineOptions, Lookahead, MakeBackend};
pub use pack::{PackOptions, ShardedSource, note_codec, pack, pack_shards};
pub use session::{KeyValues, RecurrentState, RemoteState, RemoteStates, Session};

pub use moeflux_experts as experts;
pub use moeflux_experts::{PolicyKind, ReaderChoice, ReaderKind};
pub use moeflux_formats as formats;
pub use moeflux_kernels as kernels;
pub use moeflux_kernels::{Isa, KvType};
