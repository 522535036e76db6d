//! HTTP: connections, limits, who may ask, errors.

mod error;
mod fields;
mod guard;
mod listen;
mod origin;
mod sse;

pub use error::ApiError;
pub use fields::{Fields, kind};
pub use guard::{Dialect, guard, read_body};
pub use listen::accept;
pub use origin::Origin;
pub use sse::{Frames, Gone, stream};
