//! How fast a model will be with another amount of memory: the time of a decoded token by how many
//! of its experts have to be read, fitted to what a loaded engine does here; and that of a prompt,
//! from what its steps need of processor, memory and disk.

mod decode;
mod device;
mod hits;
mod prefill;

pub use decode::{DecodeModel, absent, measure};
pub use device::{DeviceModel, measure as measure_device};
pub use hits::HitModel;
pub use prefill::PrefillModel;
