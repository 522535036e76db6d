//! Bytes on disk to named tensors and back: safetensors and GGUF files, weight codecs, and the
//! packed model directory with its writer.
//!
//! This crate knows file layouts and number formats. It does not know models (which tensor means
//! what is decided by whoever makes a [`PackPlan`]), devices, or how weights are cached.

#[cfg(target_endian = "big")]
compile_error!("weight files are little-endian and are used as they lie in memory");

mod checkpoint;
mod checksum;
pub mod codec;
mod dtype;
mod error;
pub mod gguf;
mod header;
mod integers;
mod io;
mod pack;
mod packed;
mod writer;

pub use checkpoint::{Checkpoint, TensorInfo};
pub use codec::{
    AffineCodec, BlockCodec, CenteredCodec, Codec, Encoded, EncodedMut, F8Codec, PartTensor,
    decode, encode, encode_into, encode_weighted,
};
pub use dtype::DType;
pub use error::{CodecError, FormatError, GgufProblem, HeaderProblem, PlanProblem, Result};
pub use header::{Header, HeaderTensor, MAX_HEADER_BYTES, parse_header};
pub use pack::{
    Begun, CodedSource, ColumnWeights, ElementSteps, GlobalScale, MatrixSource, PackPlan,
    PackProgress, PackReport, Packer, PlannedLayer, PlannedMatrix, PlannedTensor, SourceIdentity,
    pack,
};
pub use packed::{
    DENSE_NAME, FORMAT_VERSION, FileEntry, MANIFEST_NAME, Manifest, PackedLayer, PackedModel,
    PackedPart, PackedRecord, RECORD_ALIGN, SourceEntry, SourceFile, layer_name,
};
pub use writer::{SafetensorsWriter, TensorSpec, write_safetensors};
