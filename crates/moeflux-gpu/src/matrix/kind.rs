//! What `form.wgsl` needs to know of a matrix's form: parameters from which it becomes the reading of
//! that coding.

use std::collections::HashMap;
use std::sync::OnceLock;

use moeflux_kernels::Coding;

use super::{Elements, Form, TILE, UNIT};
use crate::Param;

/// How the scales of a coding lie, and what its codes stand for.
struct Kind {
    /// The parameter that says how they lie.
    scales: &'static str,
    /// Bits of an integer, or of the code of a level.
    bits: u32,
    /// Units of a block.
    units: u32,
    /// Bytes a row of each run of scales that a block begins with.
    runs: &'static [usize],
    levels: Option<&'static [u8; 16]>,
}

const fn kind(
    scales: &'static str,
    bits: u32,
    (units, runs): (u32, &'static [usize]),
    levels: Option<&'static [u8; 16]>,
) -> Kind {
    Kind {
        scales,
        bits,
        units,
        runs,
        levels,
    }
}

fn kind_of(coding: Coding) -> Kind {
    const ONE: (u32, &[usize]) = (1, &[2]);
    const TWO: (u32, &[usize]) = (1, &[2, 2]);
    const K: (u32, &[usize]) = (8, &[4, 4, 4, 2, 2]);
    let levels = coding.levels();
    match coding {
        Coding::Affine { bits, .. } => kind("IS_AFFINE", bits, (1, &[]), levels),
        Coding::Centered { bits, .. } => kind("IS_CENTERED", bits, (1, &[]), levels),
        Coding::Q4_0 | Coding::Iq4Nl => kind("IS_SIMPLE", 4, ONE, levels),
        Coding::Q5_0 => kind("IS_SIMPLE", 5, ONE, levels),
        Coding::Q8_0 => kind("IS_SIMPLE", 8, ONE, levels),
        Coding::Q4_1 => kind("IS_PAIR", 4, TWO, levels),
        Coding::Q5_1 => kind("IS_PAIR", 5, TWO, levels),
        Coding::Mxfp4 => kind("IS_POWER", 4, (1, &[1]), levels),
        Coding::Nvfp4 => kind("IS_NESTED", 4, (1, &[1, 1]), levels),
        Coding::Q2K => kind("IS_Q2K", 2, (8, &[4, 4, 4, 4, 2, 2]), levels),
        Coding::Q3K => kind("IS_Q3K", 3, (8, &[4, 4, 4, 2]), levels),
        Coding::Q4K => kind("IS_K", 4, K, levels),
        Coding::Q5K => kind("IS_K", 5, K, levels),
        Coding::Q6K => kind("IS_Q6K", 6, (8, &[4, 4, 4, 4, 2]), levels),
        Coding::Iq4Xs => kind("IS_IQ4XS", 4, (8, &[4, 2, 1, 1]), levels),
    }
}

/// Bytes a lane of the runs of a block, in their order.
pub(super) fn runs(coding: Coding) -> Vec<usize> {
    let kind = kind_of(coding);
    let words = vec![4; (kind.units * kind.bits) as usize];
    [kind.runs, &words].concat()
}

/// A form of each kind, of a tile's rows: for checking what kernels become.
pub(crate) fn all_forms(cols: usize) -> Vec<Form> {
    use Coding::{
        Iq4Nl, Iq4Xs, Mxfp4, Nvfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0,
    };
    let affine = |bits| [32, 64, 128].map(|group| Coding::Affine { bits, group });
    let mut codings: Vec<Coding> = [2, 3, 4, 5, 6, 8].into_iter().flat_map(affine).collect();
    codings.extend([4, 8].map(|bits| Coding::Centered { bits, group: 64 }));
    codings.extend([Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K]);
    codings.extend([Iq4Nl, Iq4Xs, Mxfp4, Nvfp4]);
    let floats = [Elements::F32, Elements::F16, Elements::Bf16, Elements::F8];
    let elements = codings.into_iter().map(Elements::Coded).chain(floats);
    let form = |elements| Form {
        rows: TILE,
        cols,
        elements,
    };
    elements.map(form).collect()
}

/// Names of a form's parameters, and of a second form's.
const SECOND_NAMES: [(&str, &str); 43] = [
    ("PLANES", "BPLANES"),
    ("EIGHT", "BEIGHT"),
    ("NIBBLES", "BNIBBLES"),
    ("FOUR", "BFOUR"),
    ("IS_F32", "BIS_F32"),
    ("IS_F16", "BIS_F16"),
    ("IS_BF16", "BIS_BF16"),
    ("IS_F8", "BIS_F8"),
    ("IS_AFFINE", "BIS_AFFINE"),
    ("IS_CENTERED", "BIS_CENTERED"),
    ("IS_SIMPLE", "BIS_SIMPLE"),
    ("IS_PAIR", "BIS_PAIR"),
    ("IS_POWER", "BIS_POWER"),
    ("IS_NESTED", "BIS_NESTED"),
    ("HAS_E4M3", "BHAS_E4M3"),
    ("IS_K", "BIS_K"),
    ("IS_Q2K", "BIS_Q2K"),
    ("IS_Q3K", "BIS_Q3K"),
    ("IS_Q6K", "BIS_Q6K"),
    ("IS_IQ4XS", "BIS_IQ4XS"),
    ("CODED", "BCODED"),
    ("SPAN", "BSPAN"),
    ("BITS_IS_3", "BBITS_IS_3"),
    ("BITS_IS_5", "BBITS_IS_5"),
    ("BITS_IS_6", "BBITS_IS_6"),
    ("BITS_IS_8", "BBITS_IS_8"),
    ("BITS_BELOW_8", "BBITS_BELOW_8"),
    ("HAS_TWO", "BHAS_TWO"),
    ("HAS_FOUR", "BHAS_FOUR"),
    ("WORDS", "BWORDS"),
    ("UNITS", "BUNITS"),
    ("SCALE_BYTES", "BSCALE_BYTES"),
    ("BLOCK_BYTES", "BBLOCK_BYTES"),
    ("GROUP", "BGROUP"),
    ("ZERO", "BZERO"),
    ("BIASED", "BBIASED"),
    ("SPLIT", "BSPLIT"),
    ("SPLIT_BIAS", "BSPLIT_BIAS"),
    ("LEVELS", "BLEVELS"),
    ("LEVELS_0", "BLEVELS_0"),
    ("LEVELS_1", "BLEVELS_1"),
    ("LEVELS_2", "BLEVELS_2"),
    ("LEVELS_3", "BLEVELS_3"),
];

impl Form {
    /// What `form.wgsl` needs to know of the second form of a kernel (see [`crate::Shader`]).
    pub(crate) fn second_params(&self) -> Vec<Param> {
        static NAMES: OnceLock<HashMap<&str, &'static str>> = OnceLock::new();
        let names = NAMES.get_or_init(|| SECOND_NAMES.into_iter().collect());
        let params = self.params().into_iter();
        let second = params.map(|(name, value)| names.get(name).map(|second| (*second, value)));
        second.flatten().collect()
    }

    /// What `form.wgsl` needs to know.
    pub fn params(&self) -> Vec<Param> {
        match self.elements {
            Elements::F32 => vec![("IS_F32", 1), ("SPAN", 4), ("FOUR", 4)],
            Elements::F16 => vec![("IS_F16", 1), ("SPAN", 8), ("FOUR", 4)],
            Elements::Bf16 => vec![("IS_BF16", 1), ("SPAN", 8), ("FOUR", 4)],
            Elements::F8 => vec![("IS_F8", 1), ("HAS_E4M3", 1), ("SPAN", 16)],
            Elements::Coded(coding) => coded_params(coding),
        }
    }

    /// Whether integers, as they are multiplied in 8 bits, may lie above 127.
    pub(crate) fn is_wide(&self) -> bool {
        match self.elements {
            Elements::Coded(coding) => {
                let most = coding.levels().map(|levels| levels.iter().max());
                coding.bits() == 8 || most.flatten().is_some_and(|most| *most > 127)
            }
            _ => false,
        }
    }
}

fn coded_params(coding: Coding) -> Vec<Param> {
    let kind = kind_of(coding);
    let (bits, units, rounding) = (kind.bits, kind.units, coding.rounding());
    let scale_bytes = kind.runs.iter().sum::<usize>() as u32;
    let is_split = rounding.group < UNIT;
    let mut params = vec![
        (kind.scales, 1),
        ("CODED", 1),
        ("SPAN", UNIT as u32),
        // Counts of what is written out.
        ("PLANES", bits),
        ("FOUR", 4),
        ("EIGHT", 8),
        ("NIBBLES", u32::from(bits == 4 && kind.levels.is_none())),
        ("BITS_IS_3", u32::from(bits == 3)),
        ("BITS_IS_5", u32::from(bits == 5)),
        ("BITS_IS_6", u32::from(bits == 6)),
        ("BITS_IS_8", u32::from(bits == 8)),
        ("BITS_BELOW_8", u32::from(bits < 8)),
        ("HAS_TWO", u32::from(bits < 4)),
        ("HAS_FOUR", u32::from((4..8).contains(&bits))),
        ("WORDS", bits * 4),
        ("UNITS", units),
        ("SCALE_BYTES", scale_bytes),
        ("BLOCK_BYTES", units * bits * 4 + scale_bytes),
        ("GROUP", rounding.group as u32),
        ("ZERO", rounding.zero as u32),
        ("BIASED", u32::from(coding.has_bias())),
        ("SPLIT", u32::from(is_split)),
        ("SPLIT_BIAS", u32::from(is_split && coding.has_bias())),
        ("HAS_E4M3", u32::from(coding == Coding::Nvfp4)),
    ];
    if let Some(levels) = kind.levels {
        params.push(("LEVELS", 1));
        let names = ["LEVELS_0", "LEVELS_1", "LEVELS_2", "LEVELS_3"];
        let words = levels.as_chunks::<4>().0.iter().copied();
        params.extend(names.into_iter().zip(words.map(u32::from_le_bytes)));
    }
    params
}
