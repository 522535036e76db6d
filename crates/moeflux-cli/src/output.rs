//! Standard output, progress on standard error, and the line that sums up a run.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use moeflux::draft::{DraftStats, Speculate};
use moeflux::generate::{End, Timings};
use moeflux::memory::Locked;
use moeflux::sampling::SamplingParams;
use moeflux::{Engine, Stats};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::size;

/// Work shorter than this shows no progress.
const QUIET: Duration = Duration::from_secs(1);

/// Writes text to standard output at once.
pub fn write(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(stdout_error)
}

/// Writes a line to standard output.
pub fn line(text: &str) -> Result<(), Failure> {
    write(&format!("{text}\n"))
}

/// Writes a JSON value to standard output.
pub fn json(value: &Value) -> Result<(), Failure> {
    line(&format!("{value:#}"))
}

fn stdout_error(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::BrokenPipe;
    }
    Failure::Terminal(format!("cannot write to standard output: {error}"))
}

/// Writes a line for the user to standard error.
pub fn note(text: &str) {
    // Notes are a courtesy: without standard error the work still goes on.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether standard error is a terminal, where notes that nobody asked for are welcome.
pub fn attended() -> bool {
    io::stderr().is_terminal()
}

/// Runs `work`, with a spinner on a terminal once it takes longer than a second.
pub fn with_spinner<T>(message: &'static str, work: impl FnOnce() -> T) -> T {
    if !attended() {
        return work();
    }
    let (done, wait) = mpsc::channel::<()>();
    let spinner = std::thread::spawn(move || {
        if wait.recv_timeout(QUIET) != Err(mpsc::RecvTimeoutError::Timeout) {
            return;
        }
        let bar = ProgressBar::new_spinner().with_message(message);
        while wait.recv_timeout(Duration::from_millis(100)) == Err(mpsc::RecvTimeoutError::Timeout)
        {
            bar.tick();
        }
        bar.finish_and_clear();
    });
    let result = work();
    drop(done);
    // A spinner that failed has nothing to tell.
    let _ = spinner.join();
    result
}

/// A bar over bytes with throughput and time left; hidden where standard error is no terminal.
pub fn bytes_bar(total: u64) -> ProgressBar {
    bar(
        total,
        "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left  {msg}",
    )
}

/// A bar over things that are counted.
pub fn count_bar(total: u64, things: impl Into<Cow<'static, str>>) -> ProgressBar {
    bar(total, "{bar:30} {pos}/{len} {msg} {per_sec} {eta} left").with_message(things)
}

fn bar(total: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

/// What one generation did, for the summary.
pub struct Summary<'a> {
    pub engine: &'a Engine,
    /// The engine's statistics of this generation alone.
    pub stats: Stats,
    pub timings: Timings,
    pub speculate: Speculate,
    pub drafts: DraftStats,
    pub sampling: &'a SamplingParams,
    pub end: Option<End>,
}

impl Summary<'_> {
    /// Share of the time that the engine waited for experts from the disk, 0 to 1.
    fn disk_share(&self) -> f64 {
        let seconds = (self.timings.prefill + self.timings.decode).as_secs_f64();
        let waited = self.stats.experts.wait_us_total as f64 * 1e-6;
        if seconds > 0.0 {
            (waited / seconds).min(1.0)
        } else {
            0.0
        }
    }

    fn limit(&self) -> &'static str {
        if self.disk_share() > 0.5 {
            "the disk"
        } else {
            "computing"
        }
    }

    fn end_name(&self) -> &'static str {
        match self.end {
            Some(End::Stop(_)) => "stop",
            Some(End::MaxTokens) => "max_tokens",
            Some(End::ContextFull) => "context_full",
            _ => "interrupted",
        }
    }

    /// One line for people.
    pub fn text(&self) -> String {
        let experts = &self.stats.experts;
        let mut text = format!(
            "{} prompt tokens at {:.1} tok/s, {} generated at {:.1} tok/s; {:.1} % of experts were \
             in memory, {:.2} GB read by {}; {:.0} % of the time waiting for the disk: limited by {}; \
             {}, {} threads, {} activations, {} keys and values",
            self.timings.prompt_tokens,
            self.timings.prefill_tokens_per_second(),
            self.timings.generated_tokens,
            self.timings.decode_tokens_per_second(),
            experts.hit_rate() * 100.0,
            experts.bytes_read as f64 * 1e-9,
            experts.reader,
            self.disk_share() * 100.0,
            self.limit(),
            self.stats.isa,
            self.stats.threads,
            self.stats.activations,
            self.stats.kv,
        );
        text += &self.drafts_text();
        if !self.sampling.is_greedy() {
            text += &format!(", seed {}", self.sampling.seed);
        }
        if self.stats.limit_bytes < self.stats.memory.limit_bytes {
            let limit = size::show(self.stats.limit_bytes);
            text += &format!("; the system leaves {limit} of memory now");
        }
        if let Some(note) = self.stats.locked.note() {
            text += &format!("; {note}");
        }
        match self.end {
            Some(End::MaxTokens) => text += "; cut at --max-tokens",
            Some(End::ContextFull) => text += "; cut where the context was full",
            _ => {}
        }
        text
    }

    /// What speculation did, if anything.
    fn drafts_text(&self) -> String {
        let DraftStats {
            steps,
            drafted,
            accepted,
            saved_seconds,
            ..
        } = self.drafts;
        if steps == 0 {
            return String::new();
        }
        let (saved, by) = match saved_seconds < 0.0 {
            true => ("lost", -saved_seconds),
            false => ("saved", saved_seconds),
        };
        format!(
            "; {accepted} of {drafted} drafted tokens accepted in {steps} steps, {saved} about \
             {by:.2} s"
        )
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let experts = &self.stats.experts;
        json!({
            "prompt_tokens": self.timings.prompt_tokens,
            "generated_tokens": self.timings.generated_tokens,
            "end": self.end_name(),
            "prefill_seconds": self.timings.prefill.as_secs_f64(),
            "decode_seconds": self.timings.decode.as_secs_f64(),
            "prefill_tokens_per_second": self.timings.prefill_tokens_per_second(),
            "decode_tokens_per_second": self.timings.decode_tokens_per_second(),
            "hit_rate": experts.hit_rate(),
            "expert_bytes_read": experts.bytes_read,
            "disk_wait_share": self.disk_share(),
            "limited_by": if self.disk_share() > 0.5 { "disk" } else { "compute" },
            "reader": experts.reader,
            "memory_limit_bytes": self.stats.limit_bytes,
            "expert_slots": experts.slots,
            "weights_locked": self.stats.locked == Locked::Yes,
            "speculate": self.speculate.to_string(),
            "draft_steps": self.drafts.steps,
            "drafted_tokens": self.drafts.drafted,
            "accepted_tokens": self.drafts.accepted,
            "draft_saved_seconds": self.drafts.saved_seconds,
            "isa": self.stats.isa.to_string(),
            "threads": self.stats.threads,
            "activations": self.stats.activations.to_string(),
            "kv": self.stats.kv.to_string(),
            "seed": (!self.sampling.is_greedy()).then_some(self.sampling.seed),
            "model_type": self.engine.info().model_type,
        })
    }
}
