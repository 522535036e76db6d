//! Runs a model's operations on a graphics processor: Metal, Vulkan or DX12 through wgpu, from one
//! set of kernels in WGSL.
//!
//! [`Gpu`] is an open device with its memory; a [`Recorder`] puts many [`Dispatch`]es into one
//! submission and reads results back. `ops/` has one file an operation, with its WGSL beside it.
//!
//! Every output element has one order of summation, whatever the batch, so results do not depend
//! on what else is in a step.

mod adapter;
mod backend;
mod device;
mod error;
pub mod exactness;
mod faults;
pub mod kv_layout;
pub mod matrix;
pub mod ops;
mod pinned;
mod pipeline;
mod profile;
mod quick_hash;
mod rates;
mod recorder;
mod shader;
pub mod state;
mod submitter;
mod tier;
mod transfer;

pub use adapter::{AdapterLine, DeviceChoice, adapters};
pub use backend::{CpuExperts, GpuBackend, GpuOptions};
pub use device::{DeviceBuffer, Gpu, IMMEDIATE_BYTES};
pub use error::GpuError;
pub use profile::DispatchTime;
pub use rates::{DeviceRates, rates};
pub use recorder::{Dispatch, Recorder, View};
pub use shader::{Param, Shader};
