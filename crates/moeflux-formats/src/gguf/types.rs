//! The numbers by which GGUF names tensor types.

use std::fmt;

use crate::DType;
use crate::codec::BlockCodec;

/// The types that are read, for messages.
pub(super) const SUPPORTED: &str = concat!(
    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, ",
    "IQ4_XS and MXFP4; of tables I32 and I64",
);

/// Every type that a file may hold or may once have held.
const NAMES: [(u32, &str); 43] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (4, "Q4_2"),
    (5, "Q4_3"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (30, "BF16"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (42, "Q2_0"),
];

/// A tensor type's number, shown with its name if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorType(pub u32);

impl TensorType {
    /// How the elements are stored, if this type is read.
    pub(super) fn dtype(self) -> Option<DType> {
        Some(match self.0 {
            0 => DType::F32,
            1 => DType::F16,
            26 => DType::I32,
            27 => DType::I64,
            30 => DType::Bf16,
            2 => DType::Block(BlockCodec::Q4_0),
            3 => DType::Block(BlockCodec::Q4_1),
            6 => DType::Block(BlockCodec::Q5_0),
            7 => DType::Block(BlockCodec::Q5_1),
            8 => DType::Block(BlockCodec::Q8_0),
            10 => DType::Block(BlockCodec::Q2K),
            11 => DType::Block(BlockCodec::Q3K),
            12 => DType::Block(BlockCodec::Q4K),
            13 => DType::Block(BlockCodec::Q5K),
            14 => DType::Block(BlockCodec::Q6K),
            20 => DType::Block(BlockCodec::Iq4Nl),
            23 => DType::Block(BlockCodec::Iq4Xs),
            39 => DType::Block(BlockCodec::Mxfp4),
            _ => return None,
        })
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(number, _)| *number == self.0);
        let name = name.map_or("an unknown type", |(_, name)| name);
        write!(formatter, "{name} ({})", self.0)
    }
}
