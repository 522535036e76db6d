//! Element types of safetensors and GGUF files.

use std::fmt;

use crate::codec::BlockCodec;

/// How a tensor's elements are stored. Safetensors files hold single elements; GGUF files also hold
/// quantized blocks of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// 8-bit float, 4 exponent and 3 mantissa bits.
    F8E4M3,
    /// 8-bit float, 5 exponent and 2 mantissa bits.
    F8E5M2,
    /// 8-bit power of two (block scales).
    F8E8M0,
    /// Unsigned 16-bit integer.
    U16,
    /// Signed 16-bit integer.
    I16,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 32-bit integer.
    I32,
    /// IEEE single precision.
    F32,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 64-bit integer.
    I64,
    /// IEEE double precision.
    F64,
    /// Blocks of quantized elements (GGUF only).
    Block(BlockCodec),
}

impl DType {
    /// Every type of safetensors files, for look-ups by name.
    const SAFETENSORS: [Self; 16] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::F8E8M0,
        Self::U16,
        Self::I16,
        Self::F16,
        Self::Bf16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Elements that are stored together: 1 but for quantized blocks.
    #[must_use]
    pub fn block_elements(self) -> usize {
        match self {
            Self::Block(codec) => codec.block_elements(),
            _ => 1,
        }
    }

    /// Bytes of [`DType::block_elements`] elements.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E4M3 | Self::F8E5M2 | Self::F8E8M0 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::Block(codec) => codec.block_bytes(),
        }
    }

    /// Bytes of a tensor of this shape (outermost first), or `None` if its rows do not divide into
    /// blocks or the size overflows.
    #[must_use]
    pub fn tensor_bytes(self, shape: &[usize]) -> Option<u64> {
        let (cols, outer) = shape.split_last().unwrap_or((&1, &[]));
        if !cols.is_multiple_of(self.block_elements()) {
            return None;
        }
        let blocks = cols / self.block_elements();
        outer
            .iter()
            .chain([&blocks])
            .try_fold(self.block_bytes() as u64, |bytes, &size| {
                bytes.checked_mul(size as u64)
            })
    }

    /// The name in a safetensors header, such as `BF16`, or of a GGUF type, such as `Q4_K`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::F8E8M0 => "F8_E8M0",
            Self::U16 => "U16",
            Self::I16 => "I16",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::U32 => "U32",
            Self::I32 => "I32",
            Self::F32 => "F32",
            Self::U64 => "U64",
            Self::I64 => "I64",
            Self::F64 => "F64",
            Self::Block(codec) => codec.type_name(),
        }
    }

    /// The type of a safetensors header's name, or `None` if there is no such type.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::SAFETENSORS
            .into_iter()
            .find(|dtype| dtype.name() == name)
    }

    /// Whether [`crate::Checkpoint::read_f32`] and `pack` can turn this type into f32.
    #[must_use]
    pub fn is_plain_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
