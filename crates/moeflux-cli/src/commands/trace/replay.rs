//! `moeflux trace replay`: hit rates by policy and memory, from recorded traces.

use std::path::PathBuf;

use clap::Args;
use moeflux::experts::{PolicyKind, Replay, ReplayPolicy, ReplayResult, Tally, Trace};
use serde_json::{Value, json};

use super::chart::{Chart, Line};
use crate::failure::Failure;
use crate::output;

/// Flags of `trace replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Files written by --trace, all of one model, replayed one after another
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Sizes of the expert memory, in percent of all experts
    #[arg(long, value_delimiter = ',', default_value = "5,10,15,25,35,50,75",
          value_name = "PERCENT,...", value_parser = parse_percent)]
    budgets: Vec<f64>,
    /// Which steps the hit rates are about
    #[arg(long, value_enum, default_value = "decode")]
    count: Count,
    /// Also draw hit rate against memory
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Which steps are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Count {
    /// Steps of one token
    Decode,
    /// The second half of the steps of one token
    Warm,
    /// All steps
    All,
}

impl Count {
    fn of(self, result: &ReplayResult) -> Tally {
        match self {
            Count::Decode => result.decode,
            Count::Warm => result.warm,
            Count::All => result.all,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Count::Decode => "in steps of one token",
            Count::Warm => "in the second half of the steps of one token",
            Count::All => "in all steps",
        }
    }
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = text.trim().parse::<f64>().ok();
    let percent = percent.filter(|percent| *percent > 0.0 && *percent <= 100.0);
    percent.ok_or_else(|| format!("`{text}` is not a percentage between 0 and 100"))
}

/// One policy over all budgets.
struct Row {
    name: String,
    policy: ReplayPolicy,
    results: Vec<ReplayResult>,
}

/// Runs the command.
pub fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let traces = args.files.iter().map(|file| Trace::read(file));
    let traces = traces.collect::<Result<Vec<Trace>, _>>()?;
    for (trace, file) in traces.iter().zip(&args.files) {
        if trace.truncated {
            output::note(&format!(
                "{} ends within a step, which was left out",
                file.display()
            ));
        }
    }
    let replay = Replay::new(&traces)?;
    let mut budgets = args.budgets.clone();
    budgets.sort_by(f64::total_cmp);
    let slots: Vec<usize> = budgets
        .iter()
        .map(|&p| slots(p, replay.expert_count()))
        .collect();
    let online = PolicyKind::ALL.into_iter().map(ReplayPolicy::Online);
    let policies: Vec<ReplayPolicy> = online.chain([ReplayPolicy::Belady]).collect();
    let bar = output::count_bar((policies.len() * slots.len()) as u64, "replays");
    let mut rows = Vec::new();
    for policy in policies {
        let mut row = Row {
            name: policy.to_string(),
            policy,
            results: Vec::new(),
        };
        for &slots in &slots {
            row.results.push(replay.run(policy, slots));
            bar.inc(1);
        }
        rows.push(row);
    }
    bar.finish_and_clear();
    let model = &traces[0].header.model;
    if let Some(path) = &args.svg {
        let chart = chart(model, args.count, &budgets, &rows);
        std::fs::write(path, chart.svg()).map_err(|source| Failure::File {
            action: "write",
            path: path.clone(),
            source,
        })?;
    }
    if args.json {
        return output::json(&as_json(model, &budgets, &slots, &rows));
    }
    output::line(&as_text(args.count, &budgets, &rows))
}

/// Slots that hold this part of all experts.
fn slots(percent: f64, experts: usize) -> usize {
    (percent / 100.0 * experts as f64).round().max(1.0) as usize
}

fn as_text(count: Count, budgets: &[f64], rows: &[Row]) -> String {
    let mut lines = vec![format!("hit rate in % {}", count.title())];
    let heads: String = budgets
        .iter()
        .map(|b| format!("{:>8}", format!("{b} %")))
        .collect();
    lines.push(format!("{:<14}{heads}", "memory"));
    for row in rows {
        let rate = |result: &ReplayResult| format!("{:>8.1}", count.of(result).hit_rate() * 100.0);
        let rates: String = row.results.iter().map(rate).collect();
        lines.push(format!("{:<14}{rates}", row.name));
    }
    let first = rows.first().and_then(|row| row.results.first());
    if let Some(result) = first {
        let uses = result.all.hits + result.all.misses;
        lines.push(format!(
            "{} of {uses} experts asked for were new, which no policy finds",
            result.cold_misses
        ));
    }
    lines.join("\n")
}

fn as_json(model: &str, budgets: &[f64], slots: &[usize], rows: &[Row]) -> Value {
    let tally = |tally: Tally| {
        let rate = tally.hit_rate();
        json!({"hits": tally.hits, "misses": tally.misses, "hit_rate": rate})
    };
    let mut results = Vec::new();
    for row in rows {
        for ((result, percent), slots) in row.results.iter().zip(budgets).zip(slots) {
            results.push(json!({
                "policy": row.name,
                "percent": percent,
                "slots": slots,
                "all": tally(result.all),
                "decode": tally(result.decode),
                "warm": tally(result.warm),
                "cold_misses": result.cold_misses,
            }));
        }
    }
    json!({"model": model, "results": results})
}

fn chart(model: &str, count: Count, budgets: &[f64], rows: &[Row]) -> Chart {
    let line = |row: &Row| Line {
        name: row.name.clone(),
        bound: row.policy == ReplayPolicy::Belady,
        points: budgets
            .iter()
            .zip(&row.results)
            .map(|(&percent, result)| (percent, count.of(result).hit_rate() * 100.0))
            .collect(),
    };
    Chart {
        title: format!("{model}: experts found in memory, {}", count.title()),
        lines: rows.iter().map(line).collect(),
    }
}
