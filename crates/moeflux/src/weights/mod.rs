//! The weights of a model: which files they come from, the resident ones in memory, and where
//! each expert's matrices lie in its record.

mod experts;
mod files;
mod find;
mod layout;
mod mlx;
mod mxfp4;
mod parts;
mod record;
mod resident;
mod switched;
mod table;
mod turned;

pub use experts::{ExpertLayout, ExpertTable};
pub(crate) use experts::{Stack, stacks};
pub use files::ModelFiles;
pub(crate) use find::{MatrixTensors, find_matrix, find_stack, find_table, plain_codec};
pub(crate) use layout::Apart;
pub use layout::MatrixLayout;
pub(crate) use mlx::adapt;
pub use parts::{ExpertPart, MatrixPart, WeightPart};
pub use resident::{Survey, Weights};
pub(crate) use switched::switched;
pub use table::RowTable;
