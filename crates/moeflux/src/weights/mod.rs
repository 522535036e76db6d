//! The weights of a model: which files they come from, the resident ones in memory, and where
//! each expert's matrices lie in its record.

mod experts;
mod files;
mod layout;
mod parts;
mod resident;
mod turned;

pub use experts::{ExpertLayout, ExpertTable};
pub use files::ModelFiles;
pub use layout::MatrixLayout;
pub use parts::{ExpertPart, MatrixPart, WeightPart};
pub use resident::{Survey, Weights};
