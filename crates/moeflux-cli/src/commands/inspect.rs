//! `moeflux inspect`: a model in figures, from its headers.

use clap::Args;
use moeflux::ModelInfo;
use moeflux::formats::PackedModel;
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::model;
use crate::output;
use crate::size;

/// Flags of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A model's directory, GGUF file or name, as for run
    #[arg(short, long, default_value = "demo")]
    model: String,
    /// Also read every byte of a packed model and compare it with its checksums
    #[arg(long)]
    verify: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    let dir = model::find(&args.model)?;
    let info = moeflux::inspect(&dir)?;
    if args.verify {
        if !info.packed {
            let problem = format!(
                "--verify: {} has no checksums; only packed models have",
                dir.display()
            );
            return Err(Failure::Usage(problem));
        }
        let packed = PackedModel::open(&dir)?;
        let bar = output::bytes_bar(0);
        let result = packed.verify(&mut |progress| {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
        });
        bar.finish_and_clear();
        result?;
    }
    if args.json {
        return output::json(&as_json(&info, args.verify));
    }
    output::line(&as_text(&dir.display().to_string(), &info, args.verify))
}

fn as_text(dir: &str, info: &ModelInfo, verified: bool) -> String {
    let form = match (&info.gguf, info.packed) {
        (Some(_), false) => "GGUF",
        (Some(_), true) => "packed from GGUF",
        (None, true) => "packed",
        (None, false) => "unpacked",
    };
    let mut rows = vec![("model", format!("{dir} ({form})"))];
    if let Some(gguf) = &info.gguf {
        rows.extend(gguf.name.iter().map(|name| ("name", name.clone())));
        let kinds = gguf.file_type.iter();
        rows.extend(kinds.map(|kind| ("file type", format!("{kind} ({})", gguf.architecture))));
    }
    rows.extend([
        ("architecture", info.model_type.clone()),
        (
            "shape",
            format!(
                "{} layers, {} of them with {} experts ({} a token); hidden size {}",
                info.layers, info.moe_layers, info.experts, info.top_k, info.hidden
            ),
        ),
        ("vocabulary", format!("{} tokens", info.vocab_size)),
        ("context", format!("{} tokens", info.context_tokens)),
        (
            "dense weights",
            format!("{} (always in memory)", size::show(info.dense_bytes)),
        ),
        (
            "experts",
            format!(
                "{} in {} records of up to {}",
                size::show(info.expert_bytes),
                info.expert_records,
                size::show(info.expert_record_bytes)
            ),
        ),
        (
            "a token reads",
            format!(
                "{}: {} dense, {} of experts",
                size::show(info.token_dense_bytes + info.token_expert_bytes),
                size::show(info.token_dense_bytes),
                size::show(info.token_expert_bytes)
            ),
        ),
        (
            "a token keeps",
            format!("{} of state", size::show(info.token_state_bytes)),
        ),
    ]);
    rows.extend(
        info.codecs
            .iter()
            .map(|(class, codec)| ("codec", format!("{class}: {codec}"))),
    );
    rows.extend(info.skipped.iter().map(|what| ("skipped", what.clone())));
    if verified {
        rows.push(("checksums", "all right".into()));
    }
    let lines: Vec<String> = rows
        .iter()
        .map(|(name, value)| format!("{name:<14} {value}"))
        .collect();
    lines.join("\n")
}

fn as_json(info: &ModelInfo, verified: bool) -> Value {
    let codecs: Map<String, Value> = info
        .codecs
        .iter()
        .map(|(class, codec)| (class.clone(), json!(codec)))
        .collect();
    json!({
        "model_type": info.model_type,
        "packed": info.packed,
        "gguf": info.gguf.as_ref().map(|gguf| json!({
            "name": gguf.name,
            "architecture": gguf.architecture,
            "file_type": gguf.file_type,
        })),
        "hidden_size": info.hidden,
        "layers": info.layers,
        "moe_layers": info.moe_layers,
        "experts": info.experts,
        "experts_per_token": info.top_k,
        "vocab_size": info.vocab_size,
        "context_tokens": info.context_tokens,
        "dense_bytes": info.dense_bytes,
        "expert_bytes": info.expert_bytes,
        "expert_records": info.expert_records,
        "expert_record_bytes": info.expert_record_bytes,
        "token_dense_bytes": info.token_dense_bytes,
        "token_expert_bytes": info.token_expert_bytes,
        "token_state_bytes": info.token_state_bytes,
        "codecs": codecs,
        "skipped": info.skipped,
        "verified": verified,
    })
}
