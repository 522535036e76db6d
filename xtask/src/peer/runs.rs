//! One run of each program, and what it printed.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// A run of llama-bench with one test.
#[derive(Debug, PartialEq)]
pub struct Theirs {
    /// Tokens a second.
    pub rate: f64,
    /// Of the whole program, loading included.
    pub seconds: f64,
}

/// A run of `moeflux bench` with one test.
#[derive(Debug, PartialEq)]
pub struct Ours {
    /// Tokens a second.
    pub rate: f64,
    /// Share of what the hardware allows, 0 to 1.
    pub floor_share: f64,
    /// What sets that.
    pub limit: String,
    /// Loading and one token.
    pub first_token_seconds: f64,
}

impl Theirs {
    pub fn run(command: &mut Command) -> Result<Theirs> {
        let start = Instant::now();
        let printed = output(command)?;
        let seconds = start.elapsed().as_secs_f64();
        let rate = their_rate(&printed).with_context(|| format!("from {command:?}"))?;
        Ok(Theirs { rate, seconds })
    }
}

impl Ours {
    pub fn run(command: &mut Command) -> Result<Ours> {
        let printed = output(command)?;
        our_result(&printed).with_context(|| format!("from {command:?}"))
    }
}

/// The mean of the samples of the only test that llama-bench printed.
fn their_rate(printed: &str) -> Result<f64> {
    let tests: Value = serde_json::from_str(printed).context("its output is not JSON")?;
    match tests.as_array().map(Vec::as_slice) {
        Some([test]) => number(test, "avg_ts"),
        Some(tests) => bail!("it printed {} tests in place of one", tests.len()),
        None => bail!("it printed no array of tests"),
    }
}

/// The only test that `moeflux bench --json` printed.
fn our_result(printed: &str) -> Result<Ours> {
    let result: Value = serde_json::from_str(printed).context("its output is not JSON")?;
    let rows = result["results"].as_array().map(Vec::as_slice);
    let Some([row]) = rows else {
        bail!(
            "it printed {} results in place of one",
            rows.map_or(0, <[_]>::len)
        );
    };
    let limit = row["limit"].as_str();
    Ok(Ours {
        rate: number(row, "tok_s")?,
        floor_share: number(row, "floor_share")?,
        limit: limit.context("no field `limit`")?.to_owned(),
        first_token_seconds: number(row, "first_token_s")?,
    })
}

fn number(object: &Value, field: &str) -> Result<f64> {
    let value = object[field].as_f64();
    value.ok_or_else(|| anyhow!("no number in the field `{field}`"))
}

/// Standard output of a program that has to succeed.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output();
    let output = output.with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{command:?} failed ({}):\n{}",
            output.status,
            said.trim_end()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} printed no UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As llama-bench of llama.cpp build 0c1e570 printed it.
    const LLAMA_BENCH: &str = include_str!("../../tests/data/llama-bench.json");

    #[test]
    fn a_captured_output_of_llama_bench_is_read() {
        assert_eq!(their_rate(LLAMA_BENCH).unwrap(), 225.550924);
    }

    #[test]
    fn other_outputs_are_explained() {
        let error = |printed: &str| format!("{:#}", their_rate(printed).unwrap_err());
        assert!(error("Segmentation fault").contains("not JSON"));
        assert!(error("{}").contains("no array"));
        assert!(error("[]").contains("0 tests"));
        assert!(error("[{\"avg_ts\": \"x\"}]").contains("`avg_ts`"));
    }

    #[test]
    fn a_result_of_moeflux_is_read() {
        let row = r#"{"tok_s": 12.5, "floor_share": 0.5, "limit": "memory", "first_token_s": 2}"#;
        let ours = our_result(&format!("{{\"results\": [{row}]}}")).unwrap();
        let expected = Ours {
            rate: 12.5,
            floor_share: 0.5,
            limit: "memory".into(),
            first_token_seconds: 2.0,
        };
        assert_eq!(ours, expected);
        let two = our_result(&format!("{{\"results\": [{row}, {row}]}}")).unwrap_err();
        assert!(two.to_string().contains("2 results"), "{two}");
        let none = our_result("{\"results\": [{}]}").unwrap_err();
        assert!(none.to_string().contains("`tok_s`"), "{none}");
    }
}
