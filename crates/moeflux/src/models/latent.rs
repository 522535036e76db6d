//! Latent attention (MLA) in folded form: the cache holds one latent and one rotated key for all
//! heads, the projections from latents to keys and values are folded into queries and results.
//!
//! Latent attention: arXiv 2405.04434.

use moeflux_kernels::{AttentionShape, HeadRows, Piece, RopeStyle};

use super::blueprint::{BlueprintBuilder, MatrixClass};
use super::fields::{MOST_HEADS, refuse_true};
use super::rotation::Rotation;
use crate::Error;
use crate::config::Config;
use crate::graph::{BufferId, Op, WeightId};

/// Of the norms of latents, whatever that of the other norms is.
const LATENT_EPS: f32 = 1e-6;

/// An attention layer.
pub(super) struct LatentAttention {
    heads: usize,
    /// Elements of a head's query and key that do not rotate.
    plain: usize,
    /// Elements that do.
    rotated: usize,
    /// Elements of a head's value.
    value: usize,
    /// Elements of the latent that keys and values are made of.
    rank: usize,
    /// Elements of the latent that queries are made of, if they are.
    query_rank: Option<usize>,
    /// `None`: no position is told apart by its place.
    rotation: Option<(Rotation, RopeStyle)>,
}

impl LatentAttention {
    /// The fields, under the names that all configurations give them.
    pub(super) fn read(c: &Config, style: RopeStyle) -> Result<LatentAttention, Error> {
        let plain = LatentAttention::read_unrotated(c)?;
        Ok(LatentAttention {
            rotation: Some((Rotation::read(c, plain.rotated)?, style)),
            ..plain
        })
    }

    /// The same where nothing rotates.
    pub(super) fn read_unrotated(c: &Config) -> Result<LatentAttention, Error> {
        refuse_true(c, "attention_bias")?;
        let query_rank = c.has("q_lora_rank").then(|| c.size("q_lora_rank"));
        Ok(LatentAttention {
            heads: c.size_up_to("num_attention_heads", MOST_HEADS)?,
            plain: c.size("qk_nope_head_dim")?,
            rotated: c.size("qk_rope_head_dim")?,
            value: c.size("v_head_dim")?,
            rank: c.size("kv_lora_rank")?,
            query_rank: query_rank.transpose()?,
            rotation: None,
        })
    }

    /// Emits the layer; its weights' names begin with `name`.
    pub(super) fn emit(&self, b: &mut BlueprintBuilder, x: BufferId, name: &str) -> BufferId {
        let (q, latent_and_key) = self.projections(b, x, name);
        let (plain, rotated, rank) = (self.plain, self.rotated, self.rank);
        let q_plain = b.rearrange(&[q], self.of_heads(plain + rotated, 0, plain), "q plain");
        let q_rotated = self.of_heads(plain + rotated, plain, rotated);
        let q_rotated = b.rearrange(&[q], q_rotated, "q to rotate");
        let latent = b.rearrange(&[latent_and_key], one(0, 0, rank), "latent");
        let key = b.rearrange(&[latent_and_key], one(0, rank, rotated), "key to rotate");
        let norm = format!("{name}.kv_a_layernorm.weight");
        let latent = b.rms_norm_with(latent, norm, (rank, LATENT_EPS), "latent normed");
        let (q_rotated, key) = (self.rotate(b, q_rotated), self.rotate(b, key));
        let up = b.matrix(
            format!("{name}.kv_b_proj"),
            self.heads * (plain + self.value),
            rank,
            MatrixClass::Dense,
        );
        let q_latent = self.by_head(b, (up, q_plain), (0, plain), true);
        let heads = (0..self.heads)
            .flat_map(|head| one(0, head * rank, rank).chain(one(1, head * rotated, rotated)));
        let query = b.rearrange(&[q_latent, q_rotated], heads, "query");
        let both = one(0, 0, rank).chain(one(1, 0, rotated));
        let key = b.rearrange(&[latent, key], both, "latent and key");
        let score_scale = self.rotation.as_ref().map_or(1.0, |(r, _)| r.score_scale);
        let shape = AttentionShape {
            heads: self.heads,
            kv_heads: 1,
            head_dim: rank + rotated,
            scale: (score_scale / ((plain + rotated) as f64).sqrt()) as f32,
            window: None,
        };
        let attended = b.attention_with((query, key, key), shape, None);
        let latents = self.of_heads(rank + rotated, 0, rank);
        let latents = b.rearrange(&[attended], latents, "attended latents");
        let values = self.by_head(b, (up, latents), (plain, self.value), false);
        let hidden = b.hidden;
        let [out] = b.project(
            values,
            MatrixClass::Dense,
            [(format!("{name}.o_proj"), hidden, "attention out")],
        );
        out
    }

    /// Queries, and the latent with the key that all heads share.
    fn projections(
        &self,
        b: &mut BlueprintBuilder,
        x: BufferId,
        name: &str,
    ) -> (BufferId, BufferId) {
        let q_len = self.heads * (self.plain + self.rotated);
        let (q_name, q_rows) = match self.query_rank {
            None => ("q_proj", q_len),
            Some(rank) => ("q_a_proj", rank),
        };
        let kv = format!("{name}.kv_a_proj_with_mqa");
        let [q, kv] = b.project(
            x,
            MatrixClass::Dense,
            [
                (format!("{name}.{q_name}"), q_rows, "q down"),
                (kv, self.rank + self.rotated, "latent and key"),
            ],
        );
        let Some(rank) = self.query_rank else {
            return (q, kv);
        };
        let norm = format!("{name}.q_a_layernorm.weight");
        let q = b.rms_norm_with(q, norm, (rank, LATENT_EPS), "q latent");
        let [q] = b.project(
            q,
            MatrixClass::Dense,
            [(format!("{name}.q_b_proj"), q_len, "q")],
        );
        (q, kv)
    }

    fn rotate(&self, b: &mut BlueprintBuilder, x: BufferId) -> BufferId {
        let Some((rotation, style)) = &self.rotation else {
            return x;
        };
        let width = b.graph.width(x);
        let out = b.graph.buffer("rotated", width);
        b.graph.push(Op::Rope {
            x,
            heads: width / self.rotated,
            head_dim: self.rotated,
            inv_freq: rotation.inv_freq.clone(),
            attention_scale: rotation.attention_scale,
            style: *style,
            out,
        });
        out
    }

    /// Products of heads with `rows` of their rows of the projection from latents, from `first` on.
    fn by_head(
        &self,
        b: &mut BlueprintBuilder,
        (weight, x): (WeightId, BufferId),
        (first, rows): (usize, usize),
        transposed: bool,
    ) -> BufferId {
        let width = if transposed { self.rank } else { rows };
        let label = if transposed { "q folded" } else { "values" };
        let out = b.graph.buffer(label, self.heads * width);
        b.graph.push(Op::HeadMatmul {
            x,
            weight,
            shape: HeadRows {
                heads: self.heads,
                stride: self.plain + self.value,
                first,
                rows,
                transposed,
            },
            out,
        });
        out
    }

    /// The same piece of every head, in heads of `width`.
    fn of_heads(
        &self,
        width: usize,
        start: usize,
        len: usize,
    ) -> impl Iterator<Item = Piece> + use<> {
        (0..self.heads).flat_map(move |head| one(0, head * width + start, len))
    }
}

/// One piece.
fn one(input: usize, start: usize, len: usize) -> impl Iterator<Item = Piece> {
    std::iter::once(Piece { input, start, len })
}
