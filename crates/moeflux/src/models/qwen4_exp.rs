//! Qwen4-Exp: a residual of gated streams, three layers of gated delta rule to one of gated
//! attention to blocks that an index chooses, embeddings of n-grams in some layers, routed experts
//! and a shared one in every layer. Text part of both forms: `qwen4_exp_text`, and `qwen4_exp` with
//! a `text_config` beside the vision tower, which is skipped.
//!
//! Reference: `transformers/models/qwen4_exp/modeling_qwen4_exp.py`.

use super::blueprint::{Blueprint, VectorFold};
use super::decoder::Decoder;
use super::fields::{check_top_k, expert_count, layer_types, refuse_true, rope_frequencies};
use super::gated_streams::GatedStreams;
use super::hybrid::{Hybrid, OutputGate, Projections, gated_delta_net};
use super::indexed::Index;
use super::ngram::NgramLayers;
use super::routing::RoutedShape;
use crate::Error;
use crate::config::Config;

/// The blueprint for a configuration of either form.
pub(super) fn build(config: &Config) -> Result<Blueprint, Error> {
    let text = config
        .section("text_config")
        .unwrap_or_else(|| config.clone());
    let c = &text;
    c.require_text("hidden_act", "silu")?;
    refuse_true(c, "attention_bias")?;
    let mut decoder = Decoder::read(c, 1e-6)?;
    decoder.tied |= config.bool_or("tie_word_embeddings", false)?;
    let model = hybrid(c)?;
    let recurrent = recurrent_layers(c, decoder.layers)?;
    let index = match recurrent.contains(&false) {
        true => Some(Index::read(c, 2 * model.inv_freq.len())?),
        false => None,
    };
    let ngrams = NgramLayers::read(c, &recurrent, decoder.hidden, decoder.vocab)?;
    let streams = GatedStreams::read(c)?;
    let routed = RoutedShape {
        experts: expert_count(c)?,
        top_k: c.size("num_experts_per_tok")?,
        intermediate: c.size("moe_intermediate_size")?,
        renormalize: c.bool_or("norm_topk_prob", true)?,
    };
    check_top_k(c, &routed)?;
    let shared = c.size("shared_expert_intermediate_size")?;
    let mut b = decoder.builder(VectorFold::AddOne);
    let (embedded, table) = b.embed(decoder.vocab);
    let mut x = streams.of(&mut b, embedded);
    for (layer, is_recurrent) in recurrent.into_iter().enumerate() {
        let name = format!("layers.{layer}");
        x = ngrams.emit(&mut b, (x, &streams), layer, &format!("{name}.ple"));
        let connection = format!("{name}.attn_hyper_connection");
        // An index is there if a layer needs one.
        let index = index.as_ref().filter(|_| !is_recurrent);
        x = streams.around(&mut b, x, &connection, |b, x| match index {
            Some(index) => index.emit(b, &model, x, &format!("{name}.self_attn")),
            None => gated_delta_net(b, &model, x, &format!("{name}.linear_attn")),
        });
        let connection = format!("{name}.mlp_hyper_connection");
        x = streams.around(&mut b, x, &connection, |b, x| {
            b.gated_shared_moe(x, layer, &format!("{name}.mlp"), routed, shared)
        });
    }
    let last = streams.last(&mut b, x, "hyper_connection_mixer");
    let tied = decoder.tied.then_some(table);
    let logits = b.head_of(last, decoder.vocab, tied, "lm_head");
    let model_type = config.text("model_type").unwrap_or_default();
    let blueprint = decoder.blueprint(b, (model_type, routed.top_k), logits);
    Ok(Blueprint {
        prefixes: &["model.language_model.", "language_model.model.", "model."],
        skipped: vec![
            ("model.visual.".to_owned(), "vision tower"),
            ("visual.".to_owned(), "vision tower"),
            ("vision_tower.".to_owned(), "vision tower"),
            ("mtp.".to_owned(), "multi-token prediction head"),
        ],
        ..blueprint
    })
}

/// Sizes of both kinds of layers; whole heads rotate where the fields do not say.
fn hybrid(c: &Config) -> Result<Hybrid, Error> {
    let mut model = Hybrid::read(c, Projections::Apart)?;
    model.inv_freq = rope_frequencies(c, model.head_dim, Some(1.0))?;
    model.gate = match c.text("output_gate_type").unwrap_or("silu") {
        "silu" => OutputGate::Silu,
        "sigmoid" => OutputGate::Sigmoid,
        other => {
            let problem = format!("is `{other}`; only `silu` and `sigmoid` are supported");
            return Err(c.error("output_gate_type", problem));
        }
    };
    Ok(model)
}

/// For each layer whether it is one of the delta rule. Published files call those with an index
/// `full_attention`.
fn recurrent_layers(c: &Config, layers: usize) -> Result<Vec<bool>, Error> {
    let Some(types) = layer_types(c, layers)? else {
        let interval = c.size_or("full_attention_interval", 4)?;
        return Ok((1..=layers).map(|i| !i.is_multiple_of(interval)).collect());
    };
    types
        .iter()
        .map(|t| match t.as_str() {
            "full_attention" | "indexed_attention" => Ok(false),
            "linear_attention" => Ok(true),
            other => Err(c.error("layer_types", format!("has an unknown type `{other}`"))),
        })
        .collect()
}
