//! Codecs by name: `affine-b4-g64`, `q4_k`, `f8-e4m3`.

use std::fmt;
use std::str::FromStr;

use super::{BlockCodec, CenteredCodec, Codec, F8Codec, nvfp4};
use crate::error::CodecError;

impl fmt::Display for Codec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => formatter.write_str("f32"),
            Self::F16 => formatter.write_str("f16"),
            Self::Bf16 => formatter.write_str("bf16"),
            Self::F8(f8) => f8.fmt(formatter),
            Self::Nvfp4 => formatter.write_str(nvfp4::BLOCKS),
            Self::Centered(centered) => centered.fmt(formatter),
            Self::Affine(affine) => affine.fmt(formatter),
            Self::Block(block) => block.fmt(formatter),
        }
    }
}

impl serde::Serialize for Codec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Codec {
    type Err = CodecError;

    fn from_str(name: &str) -> Result<Self, CodecError> {
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            nvfp4::BLOCKS => Ok(Self::Nvfp4),
            _ => BlockCodec::from_name(name)
                .map(Self::Block)
                .or_else(|| F8Codec::from_name(name).map(Self::F8))
                .or_else(|| CenteredCodec::from_name(name).map(Self::Centered))
                .map_or_else(|| name.parse().map(Self::Affine), Ok),
        }
    }
}
