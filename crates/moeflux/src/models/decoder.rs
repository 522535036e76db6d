//! The frame that most architectures share: embeddings, layers of `x + mixer(norm(x))` and then
//! `x + mlp(norm(x))`, a last norm, the output projection.

use super::blueprint::{Blueprint, BlueprintBuilder, VectorFold};
use super::fields::{context_tokens, layer_count, token_count};
use crate::Error;
use crate::config::Config;
use crate::graph::BufferId;

/// Sizes of the frame.
pub(super) struct Decoder {
    pub hidden: usize,
    pub layers: usize,
    pub vocab: usize,
    pub eps: f32,
    pub tied: bool,
    pub context_tokens: usize,
}

impl Decoder {
    /// The frame's fields, under the names that all configurations give them.
    pub(super) fn read(c: &Config, default_eps: f64) -> Result<Decoder, Error> {
        Ok(Decoder {
            hidden: c.size("hidden_size")?,
            layers: layer_count(c)?,
            vocab: token_count(c, "vocab_size")?,
            eps: c.positive_or("rms_norm_eps", default_eps)? as f32,
            tied: c.bool_or("tie_word_embeddings", false)?,
            context_tokens: context_tokens(c, 32768)?,
        })
    }

    /// A builder for this frame.
    pub(super) fn builder(&self, norm_fold: VectorFold) -> BlueprintBuilder {
        BlueprintBuilder::new(self.hidden, self.eps, norm_fold)
    }

    /// The whole model, of a type and with experts a token. `mixer` and `mlp` emit a layer's two halves, given their normed input,
    /// the layer and what the names of its weights begin with (`layers.3`).
    pub(super) fn build(
        &self,
        mut b: BlueprintBuilder,
        named: (&str, usize),
        mut mixer: impl FnMut(&mut BlueprintBuilder, BufferId, usize, &str) -> BufferId,
        mut mlp: impl FnMut(&mut BlueprintBuilder, BufferId, usize, &str) -> BufferId,
    ) -> Blueprint {
        let hidden = self.hidden;
        let (mut x, table) = b.embed(self.vocab);
        for layer in 0..self.layers {
            let name = format!("layers.{layer}");
            let weight = format!("{name}.input_layernorm.weight");
            let normed = b.rms_norm(x, weight, hidden, "normed");
            let mixed = mixer(&mut b, normed, layer, &name);
            let x_mid = b.add(x, mixed, "hidden mid");
            let weight = format!("{name}.post_attention_layernorm.weight");
            let normed = b.rms_norm(x_mid, weight, hidden, "normed");
            let out = mlp(&mut b, normed, layer, &name);
            x = b.add(x_mid, out, "hidden");
        }
        let logits = b.logits(x, self.vocab, self.tied.then_some(table));
        self.blueprint(b, named, logits)
    }

    /// The model whose graph ends with `logits`.
    pub(super) fn blueprint(
        &self,
        b: BlueprintBuilder,
        (model_type, top_k): (&str, usize),
        logits: BufferId,
    ) -> Blueprint {
        let (graph, weights, experts) = b.finish(logits);
        Blueprint {
            model_type: model_type.to_owned(),
            hidden: self.hidden,
            layers: self.layers,
            vocab: self.vocab,
            context_tokens: self.context_tokens,
            top_k,
            graph,
            weights,
            experts,
            prefixes: &["model."],
            skipped: Vec::new(),
        }
    }
}
