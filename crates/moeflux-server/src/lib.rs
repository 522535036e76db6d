//! An HTTP server for moeflux that speaks the OpenAI and Anthropic protocols.
//!
//! A request becomes a prompt ([`model`]), a job of the one thread that runs the engine
//! ([`scheduler`]), and, as its tokens come, text with reasoning and tool calls split out
//! ([`answer`]), which the protocols ([`openai`], [`anthropic`]) put in their own words.

pub mod answer;
pub mod anthropic;
mod app;
pub mod constraint;
pub mod http;
mod live;
pub mod metrics;
pub mod model;
pub mod openai;
pub mod openapi;
mod page;
pub mod prefix;
pub mod responses;
pub mod scheduler;
mod serve;
mod utilities;

pub use app::{App, ServerOptions, paths, router};
pub use model::ServedModel;
pub use prefix::PrefixOptions;
pub use scheduler::Limits;
pub use serve::{ServerError, serve};
