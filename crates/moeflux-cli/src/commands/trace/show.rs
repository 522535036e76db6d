//! `moeflux trace show`: one trace in figures.

use std::path::PathBuf;

use clap::Args;
use moeflux::experts::{Trace, TraceFigures};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output;
use crate::size;

/// Flags of `trace show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A file written by --trace
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &ShowArgs) -> Result<(), Failure> {
    let trace = Trace::read(&args.file)?;
    let figures = trace.figures();
    if args.json {
        return output::json(&as_json(&trace, &figures));
    }
    output::line(&as_text(&trace, &figures))
}

fn as_text(trace: &Trace, figures: &TraceFigures) -> String {
    let header = &trace.header;
    let (layers, all) = (header.layers.len(), header.expert_count());
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let distinct: usize = figures.distinct.iter().sum();
    let range = figures
        .distinct
        .iter()
        .min()
        .zip(figures.distinct.iter().max());
    let (fewest, most) = range.unwrap_or((&0, &0));
    let distances: Vec<String> = TraceFigures::QUANTILES
        .iter()
        .zip(figures.distances)
        .map(|(quantile, distance)| format!("{distance} ({:.0} %)", quantile * 100.0))
        .collect();
    let mut rows = vec![
        ("model", header.model.clone()),
        (
            "experts",
            format!(
                "{all} in {layers} layers, {} each, {} a token and layer",
                size::show(header.slot_bytes),
                header.top_k
            ),
        ),
        (
            "steps",
            format!(
                "{}, {} of them of one token; {} tokens",
                figures.steps, figures.decode_steps, figures.tokens
            ),
        ),
        (
            "used",
            format!("{distinct} of the experts, {fewest} to {most} of a layer"),
        ),
        (
            "popularity",
            format!(
                "the most used 10, 25 and 50 % of a layer's experts have {}, {} and {} of the uses",
                percent(figures.shares[0]),
                percent(figures.shares[1]),
                percent(figures.shares[2])
            ),
        ),
        (
            "used again",
            format!("{} by the token after", percent(figures.reused)),
        ),
        (
            "distance",
            format!("{} experts between two uses", distances.join(", ")),
        ),
    ];
    if trace.truncated {
        rows.push((
            "note",
            "the file ends within a step, which was left out".into(),
        ));
    }
    let rows: Vec<String> = rows
        .iter()
        .map(|(name, value)| format!("{name:<11} {value}"))
        .collect();
    rows.join("\n")
}

fn as_json(trace: &Trace, figures: &TraceFigures) -> Value {
    let header = &trace.header;
    let layer = |(layer, used): (&(u32, u32), &usize)| {
        let (number, experts) = layer;
        json!({"layer": number, "experts": experts, "used": used})
    };
    let layers: Vec<Value> = header
        .layers
        .iter()
        .zip(&figures.distinct)
        .map(layer)
        .collect();
    json!({
        "model": header.model,
        "identity": format!("{:016x}", header.identity),
        "slot_bytes": header.slot_bytes,
        "experts_per_token": header.top_k,
        "layers": layers,
        "steps": figures.steps,
        "decode_steps": figures.decode_steps,
        "tokens": figures.tokens,
        "uses": figures.uses,
        "share_of_top_10_percent": figures.shares[0],
        "share_of_top_25_percent": figures.shares[1],
        "share_of_top_50_percent": figures.shares[2],
        "reused_by_next_token": figures.reused,
        "reuse_distance_quantiles": TraceFigures::QUANTILES,
        "reuse_distances": figures.distances,
        "truncated": trace.truncated,
    })
}
