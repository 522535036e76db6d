//! Rotary embedding beyond the plain form: YaRN, which stretches slow frequencies to a longer
//! context.
//!
//! YaRN: arXiv 2309.00071; what the fields mean follows `_compute_yarn_parameters` in
//! `transformers/modeling_rope_utils.py`.

use std::f64::consts::PI;
use std::sync::Arc;

use super::fields::{inverse_frequencies, rope_frequencies};
use crate::Error;
use crate::config::Config;

/// Fast and slow ends of the ramp, in rotations within the original context.
const BETA_FAST: f64 = 32.0;
const BETA_SLOW: f64 = 1.0;

/// A rotation and what it does to scores.
pub(super) struct Rotation {
    /// Frequencies of the rotated pairs.
    pub inv_freq: Arc<[f32]>,
    /// Factor on sine and cosine.
    pub attention_scale: f32,
    /// Factor on attention scores.
    pub score_scale: f64,
}

impl Rotation {
    /// The rotation of `dim` elements, plain or YaRN.
    pub(super) fn read(c: &Config, dim: usize) -> Result<Rotation, Error> {
        let section = ["rope_scaling", "rope_parameters"];
        let section = section.into_iter().find_map(|name| c.section(name));
        let is_yarn = |rope: &Config| {
            let kind = rope.text("rope_type").or_else(|| rope.text("type"));
            kind == Some("yarn")
        };
        match section.filter(is_yarn) {
            Some(rope) => {
                let theta = c.positive_or("rope_theta", 10_000.0)?;
                let theta = rope.positive_or("rope_theta", theta)?;
                yarn(c, &rope, (dim, theta), None)
            }
            None => Ok(Rotation {
                inv_freq: rope_frequencies(c, dim, None)?,
                attention_scale: 1.0,
                score_scale: 1.0,
            }),
        }
    }

    /// The rotation of `dim` elements with the base `theta`, as the section `rope` stretches it;
    /// `attention` is the factor on sine and cosine where the section does not say, in place of
    /// the one that follows from the stretch.
    pub(super) fn of(
        c: &Config,
        rope: Option<&Config>,
        (dim, theta): (usize, f64),
        attention: Option<f64>,
    ) -> Result<Rotation, Error> {
        if let Some(rope) = rope {
            let kind = rope.text("rope_type").or_else(|| rope.text("type"));
            match kind.unwrap_or("default") {
                "yarn" => return yarn(c, rope, (dim, theta), attention),
                "default" => {}
                other => {
                    let problem = format!("is `{other}`; only `default` and `yarn` are supported");
                    return Err(rope.error("rope_type", problem));
                }
            }
        }
        Ok(Rotation {
            inv_freq: inverse_frequencies(theta, dim),
            attention_scale: 1.0,
            score_scale: 1.0,
        })
    }
}

fn yarn(
    c: &Config,
    rope: &Config,
    (dim, theta): (usize, f64),
    default_attention: Option<f64>,
) -> Result<Rotation, Error> {
    if dim == 0 || !dim.is_multiple_of(2) {
        let problem = format!("rotates {dim} elements, not an even number");
        return Err(rope.error("rope_type", problem));
    }
    if theta <= 1.0 {
        return Err(c.error("rope_theta", format!("is {theta}, not above 1")));
    }
    let original = rope.size_up_to("original_max_position_embeddings", 1 << 30)? as f64;
    let longest = c.size_up_to("max_position_embeddings", 1 << 30)? as f64;
    let factor = rope.positive_or("factor", longest / original)?;
    let width = dim as f64;
    let place =
        |rotations: f64| width * (original / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let fast = place(rope.positive_or("beta_fast", BETA_FAST)?);
    let slow = place(rope.positive_or("beta_slow", BETA_SLOW)?);
    let (fast, slow) = match rope.bool_or("truncate", true)? {
        true => (fast.floor(), slow.ceil()),
        false => (fast, slow),
    };
    let (low, mut high) = (fast.max(0.0), slow.min(width - 1.0));
    if low == high {
        high += 0.001;
    }
    let frequency = |pair: usize| {
        let plain = theta.powf(-((2 * pair) as f64) / width);
        let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
        (plain / factor * ramp + plain * (1.0 - ramp)) as f32
    };
    let (scale, all) = (
        factor_or_none(rope, "mscale")?,
        factor_or_none(rope, "mscale_all_dim")?,
    );
    let attention = match (scale, all) {
        (Some(scale), Some(all)) => stretch(factor, scale) / stretch(factor, all),
        _ => stretch(factor, 1.0),
    };
    Ok(Rotation {
        inv_freq: (0..dim / 2).map(frequency).collect(),
        attention_scale: rope
            .positive_or("attention_factor", default_attention.unwrap_or(attention))?
            as f32,
        score_scale: all.map_or(1.0, |all| stretch(factor, all).powi(2)),
    })
}

/// A positive number, or nothing if the field is missing or zero.
fn factor_or_none(rope: &Config, field: &str) -> Result<Option<f64>, Error> {
    match rope.number(field) {
        Some(0.0) => Ok(None),
        None if !rope.has(field) => Ok(None),
        _ => rope.positive_or(field, 1.0).map(Some),
    }
}

/// How much longer contexts sharpen attention.
fn stretch(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 {
        return 1.0;
    }
    0.1 * scale * factor.ln() + 1.0
}
