//! `cargo xtask peer`: moeflux beside llama.cpp on the same file, machine and minutes.
//!
//! Rounds of one test alternate between the two programs, and who begins changes from round to
//! round, so that a machine that changes its pace favours neither. What counts is the ratio of the
//! medians; all values are printed too.

mod runs;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
use clap::Parser;

use runs::{Ours, Theirs};

/// Compares moeflux with llama.cpp's llama-bench
#[derive(Debug, Parser)]
#[command(name = "cargo xtask peer")]
struct Args {
    /// The llama-bench program
    #[arg(long, value_name = "PATH")]
    llama_bench: PathBuf,
    /// The model that both open
    #[arg(short, long, value_name = "FILE.gguf")]
    model: PathBuf,
    /// Another model for moeflux, such as a packed one of the same shape
    #[arg(long, value_name = "MODEL")]
    moeflux_model: Option<PathBuf>,
    /// The moeflux program [default: built from this tree]
    #[arg(long, value_name = "PATH")]
    moeflux: Option<PathBuf>,
    /// Prompt lengths; 0 for none
    #[arg(short, long, value_delimiter = ',', default_value = "128,512")]
    prompt_tokens: Vec<usize>,
    /// Numbers of tokens to decode; 0 for none
    #[arg(short = 'n', long, value_delimiter = ',', default_value = "64")]
    decode_tokens: Vec<usize>,
    /// Tokens in the context before each test
    #[arg(short, long, value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,
    /// Runs of each program and test
    #[arg(short, long, default_value_t = 5, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Threads of both
    #[arg(short, long, default_value_t = 2, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Also compare the time from start to the first token
    #[arg(long)]
    load: bool,
    /// Flags for moeflux alone, such as --isa avx2
    #[arg(last = true, value_name = "FLAGS")]
    moeflux_flags: Vec<String>,
}

/// One test, as both programs know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Test {
    prompt: usize,
    decode: usize,
    depth: usize,
    /// Time the way to the first token, without a run to warm up.
    is_load: bool,
}

/// Runs the command with the arguments after `peer`; `build` makes the moeflux program.
pub fn run(arguments: &[String], build: &dyn Fn() -> Result<PathBuf>) -> ExitCode {
    crate::command::run("peer", arguments, |args: &Args| compare(args, build))
}

fn compare(args: &Args, build: &dyn Fn() -> Result<PathBuf>) -> Result<()> {
    let tests = args.tests();
    if tests.is_empty() && !args.load {
        bail!("-p 0 with -n 0 leaves nothing to compare; give a length to one of them");
    }
    let moeflux = match &args.moeflux {
        Some(path) => path.clone(),
        None => build()?,
    };
    let mut compared = Vec::new();
    for test in tests {
        compared.push(args.rounds(&moeflux, test)?);
    }
    if args.load {
        let test = Test {
            decode: 1,
            is_load: true,
            ..Test::default()
        };
        compared.push(args.rounds(&moeflux, test)?);
    }
    println!("{}\n", args.heading(&moeflux));
    println!("| test | llama.cpp | moeflux | moeflux / llama.cpp | share of floor | limit |");
    println!("|:-----|----------:|--------:|--------------------:|---------------:|:------|");
    compared.iter().for_each(|test| println!("{}", test.line()));
    println!();
    println!("| test | llama.cpp, every round | moeflux, every round |");
    println!("|:-----|:-----------------------|:---------------------|");
    compared.iter().for_each(|test| println!("{}", test.raw()));
    Ok(())
}

impl Args {
    fn tests(&self) -> Vec<Test> {
        let mut tests = Vec::new();
        for &depth in &self.depth {
            let prompts = self.prompt_tokens.iter().filter(|&&n| n > 0);
            tests.extend(prompts.map(|&prompt| Test {
                prompt,
                depth,
                ..Test::default()
            }));
            let decodes = self.decode_tokens.iter().filter(|&&n| n > 0);
            tests.extend(decodes.map(|&decode| Test {
                decode,
                depth,
                ..Test::default()
            }));
        }
        tests
    }

    /// Runs both programs in turns.
    fn rounds(&self, moeflux: &Path, test: Test) -> Result<Compared> {
        let mut compared = Compared {
            name: test.name(),
            ..Compared::default()
        };
        for round in 0..self.rounds {
            for turn in 0..2 {
                if (round + turn) % 2 == 0 {
                    let theirs = Theirs::run(&mut self.llama_bench(test))?;
                    let value = if test.is_load {
                        theirs.seconds
                    } else {
                        theirs.rate
                    };
                    compared.theirs.push(value);
                    continue;
                }
                let ours = Ours::run(&mut self.moeflux_bench(moeflux, test))?;
                if test.is_load {
                    compared.ours.push(ours.first_token_seconds);
                } else {
                    compared.ours.push(ours.rate);
                    compared.shares.push(ours.floor_share);
                    compared.limit = ours.limit;
                }
            }
            let last = |values: &[f64]| values.last().copied().unwrap_or(0.0);
            eprintln!(
                "{}, round {} of {}: llama.cpp {:.2}, moeflux {:.2}",
                compared.name,
                round + 1,
                self.rounds,
                last(&compared.theirs),
                last(&compared.ours),
            );
        }
        Ok(compared)
    }

    fn llama_bench(&self, test: Test) -> Command {
        let mut command = Command::new(&self.llama_bench);
        command.arg("-m").arg(&self.model);
        command.args(["-o", "json", "-r", "1"]);
        if test.is_load {
            command.arg("--no-warmup");
        }
        self.shape(&mut command, test);
        command
    }

    fn moeflux_bench(&self, moeflux: &Path, test: Test) -> Command {
        let mut command = Command::new(moeflux);
        command.args(["bench", "--json", "-r", "1", "-m"]);
        command.arg(self.moeflux_model.as_ref().unwrap_or(&self.model));
        self.shape(&mut command, test);
        command.args(&self.moeflux_flags);
        command
    }

    /// The flags that both programs know.
    fn shape(&self, command: &mut Command, test: Test) {
        command.args(["-p", &test.prompt.to_string()]);
        command.args(["-n", &test.decode.to_string()]);
        command.args(["-d", &test.depth.to_string()]);
        command.args(["-t", &self.threads.to_string()]);
    }

    fn heading(&self, moeflux: &Path) -> String {
        let ours = self.moeflux_model.as_ref().unwrap_or(&self.model);
        let mut flags = self.moeflux_flags.join(" ");
        if !flags.is_empty() {
            flags.insert(0, ' ');
        }
        format!(
            "`{}` on `{}` beside `{} bench{flags}` on `{}`: medians of {} runs each, {} threads, \
             tokens a second unless said",
            self.llama_bench.display(),
            self.model.display(),
            moeflux.display(),
            ours.display(),
            self.rounds,
            self.threads,
        )
    }
}

impl Test {
    fn name(&self) -> String {
        if self.is_load {
            return "first token, s".into();
        }
        let name = match self.prompt {
            0 => format!("tg{}", self.decode),
            prompt => format!("pp{prompt}"),
        };
        match self.depth {
            0 => name,
            depth => format!("{name} @ d{depth}"),
        }
    }
}

/// The values of a test.
#[derive(Default)]
struct Compared {
    name: String,
    theirs: Vec<f64>,
    ours: Vec<f64>,
    shares: Vec<f64>,
    limit: String,
}

impl Compared {
    /// The line of the table of medians.
    fn line(&self) -> String {
        let (theirs, ours) = (median(&self.theirs), median(&self.ours));
        let share = match &self.shares[..] {
            [] => String::new(),
            shares => format!("{:.0} %", median(shares) * 100.0),
        };
        let (name, ratio, limit) = (&self.name, ours / theirs, &self.limit);
        format!("| {name} | {theirs:.2} | {ours:.2} | {ratio:.2} | {share} | {limit} |")
    }

    /// The line of the table of all values.
    fn raw(&self) -> String {
        let list = |values: &[f64]| {
            let values: Vec<String> = values.iter().map(|v| format!("{v:.2}")).collect();
            values.join(" ")
        };
        format!(
            "| {} | {} | {} |",
            self.name,
            list(&self.theirs),
            list(&self.ours)
        )
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_line_gives_medians_and_their_ratio() {
        let compared = Compared {
            name: "pp8".into(),
            theirs: vec![10.0, 20.0, 12.0],
            ours: vec![40.0, 60.0, 48.0],
            shares: vec![0.8, 0.9, 0.7],
            limit: "compute".into(),
        };
        let line = "| pp8 | 12.00 | 48.00 | 4.00 | 80 % | compute |";
        assert_eq!(compared.line(), line);
        assert_eq!(
            compared.raw(),
            "| pp8 | 10.00 20.00 12.00 | 40.00 60.00 48.00 |"
        );
    }
}
