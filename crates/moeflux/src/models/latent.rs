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

/// Of the norms of latents, whatever that of the other norms is, but for some models.
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
    /// Of the norms of latents.
    eps: f32,
    /// `None`: no position is told apart by its place.
    rotation: Option<(Rotation, RopeStyle)>,
}

/// What attention works on.
#[derive(Clone, Copy)]
pub(super) struct Latents {
    /// Queries in folded form, `[heads, head_dim]`.
    pub query: BufferId,
    /// The key of all heads, which is their value too, `[head_dim]`.
    pub key: BufferId,
    /// What queries are made of.
    pub query_latent: BufferId,
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
        LatentAttention::read_with(c, c.size("qk_rope_head_dim")?)
    }

    /// The same where heads have no elements that could rotate, and with an epsilon of the latents'
    /// norms; queries are made of a latent.
    pub(super) fn read_plain(c: &Config, eps: f32) -> Result<LatentAttention, Error> {
        const ROTATED: &str = "qk_rope_head_dim";
        if c.count_or(ROTATED, 0)? != 0 {
            let problem = "is not 0; only heads without rotation are supported";
            return Err(c.error(ROTATED, problem));
        }
        c.size("q_lora_rank")?;
        Ok(LatentAttention {
            eps,
            ..LatentAttention::read_with(c, 0)?
        })
    }

    fn read_with(c: &Config, rotated: usize) -> Result<LatentAttention, Error> {
        refuse_true(c, "attention_bias")?;
        let query_rank = c.has("q_lora_rank").then(|| c.size("q_lora_rank"));
        Ok(LatentAttention {
            heads: c.size_up_to("num_attention_heads", MOST_HEADS)?,
            plain: c.size("qk_nope_head_dim")?,
            rotated,
            value: c.size("v_head_dim")?,
            rank: c.size("kv_lora_rank")?,
            query_rank: query_rank.transpose()?,
            eps: LATENT_EPS,
            rotation: None,
        })
    }

    /// Emits the layer; its weights' names begin with `name`.
    pub(super) fn emit(&self, b: &mut BlueprintBuilder, x: BufferId, name: &str) -> BufferId {
        self.emit_with(b, x, name, |b, of, shape| {
            b.attention_with((of.query, of.key, of.key), shape, None)
        })
    }

    /// The same with attention as `attend` emits it.
    pub(super) fn emit_with(
        &self,
        b: &mut BlueprintBuilder,
        x: BufferId,
        name: &str,
        attend: impl FnOnce(&mut BlueprintBuilder, Latents, AttentionShape) -> BufferId,
    ) -> BufferId {
        let (rotated, rank) = (self.rotated, self.rank);
        let (up, latents) = self.latents(b, x, name);
        let score_scale = self.rotation.as_ref().map_or(1.0, |(r, _)| r.score_scale);
        let shape = AttentionShape {
            heads: self.heads,
            kv_heads: 1,
            head_dim: rank + rotated,
            scale: (score_scale / ((self.plain + rotated) as f64).sqrt()) as f32,
            window: None,
        };
        let attended = attend(b, latents, shape);
        let attended = match rotated {
            0 => attended,
            _ => {
                let latents = self.of_heads(rank + rotated, 0, rank);
                b.rearrange(&[attended], latents, "attended latents")
            }
        };
        let values = self.by_head(b, (up, attended), (self.plain, self.value), false);
        let out = (format!("{name}.o_proj"), b.hidden, "attention out");
        let [out] = b.project(values, MatrixClass::Dense, [out]);
        out
    }

    /// Queries and keys in folded form, and the matrix that they are folded with.
    fn latents(&self, b: &mut BlueprintBuilder, x: BufferId, name: &str) -> (WeightId, Latents) {
        let (q, query_latent, latent_and_key) = self.projections(b, x, name);
        let (plain, rotated, rank) = (self.plain, self.rotated, self.rank);
        let (mut q_plain, mut latent, mut turning) = (q, latent_and_key, None);
        if rotated > 0 {
            q_plain = b.rearrange(&[q], self.of_heads(plain + rotated, 0, plain), "q plain");
            let q_rotated = self.of_heads(plain + rotated, plain, rotated);
            let q_rotated = b.rearrange(&[q], q_rotated, "q to rotate");
            latent = b.rearrange(&[latent_and_key], one(0, 0, rank), "latent");
            let key = b.rearrange(&[latent_and_key], one(0, rank, rotated), "key to rotate");
            turning = Some([q_rotated, key]);
        }
        let norm = format!("{name}.kv_a_layernorm.weight");
        let latent = b.rms_norm_with(latent, norm, (rank, self.eps), "latent normed");
        let turned = turning.map(|both| both.map(|x| self.rotate(b, x)));
        let rows = self.heads * (plain + self.value);
        let up = b.matrix(format!("{name}.kv_b_proj"), rows, rank, MatrixClass::Dense);
        let q_latent = self.by_head(b, (up, q_plain), (0, plain), true);
        let (mut query, mut key) = (q_latent, latent);
        if let Some([q_rotated, key_rotated]) = turned {
            let heads = (0..self.heads)
                .flat_map(|head| one(0, head * rank, rank).chain(one(1, head * rotated, rotated)));
            query = b.rearrange(&[q_latent, q_rotated], heads, "query");
            let both = one(0, 0, rank).chain(one(1, 0, rotated));
            key = b.rearrange(&[latent, key_rotated], both, "latent and key");
        }
        let latents = Latents {
            query,
            key,
            query_latent,
        };
        (up, latents)
    }

    /// Queries, what they are made of, and the latent with the key that all heads share.
    fn projections(
        &self,
        b: &mut BlueprintBuilder,
        x: BufferId,
        name: &str,
    ) -> (BufferId, BufferId, BufferId) {
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
            return (q, x, kv);
        };
        let norm = format!("{name}.q_a_layernorm.weight");
        let latent = b.rms_norm_with(q, norm, (rank, self.eps), "q latent");
        let [q] = b.project(
            latent,
            MatrixClass::Dense,
            [(format!("{name}.q_b_proj"), q_len, "q")],
        );
        (q, latent, kv)
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
