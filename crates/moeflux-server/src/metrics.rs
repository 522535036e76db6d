//! Figures for Prometheus: counters, gauges and histograms, and their text form.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use moeflux::Stats;

use crate::scheduler::Overview;

/// A number that goes up, or is set.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of a histogram's buckets, in seconds.
const BOUNDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 100.0,
    300.0,
];

/// How often a time fell in which bucket.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    /// Takes note of a time.
    pub fn note(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(at) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[at].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// The mean time; zero before any.
    pub fn mean(&self) -> Duration {
        let count = self.count.load(Ordering::Relaxed);
        let sum = self.sum_us.load(Ordering::Relaxed);
        Duration::from_micros(sum.checked_div(count).unwrap_or(0))
    }

    fn write(&self, text: &mut String, name: &str, help: &str) {
        head(text, name, help, "histogram");
        let mut below = 0;
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS) {
            below += bucket.load(Ordering::Relaxed);
            line(
                text,
                &format!("{name}_bucket{{le=\"{bound}\"}}"),
                below as f64,
            );
        }
        let count = self.count.load(Ordering::Relaxed).max(below);
        line(text, &format!("{name}_bucket{{le=\"+Inf\"}}"), count as f64);
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        line(text, &format!("{name}_sum"), sum);
        line(text, &format!("{name}_count"), count as f64);
    }
}

/// Figures of the prefix cache.
#[derive(Debug, Default)]
pub struct PrefixMetrics {
    /// Requests that went on from state of earlier ones.
    pub hits: Number,
    /// Requests that did not.
    pub misses: Number,
    /// Tokens of prompts that did not have to be computed.
    pub tokens: Number,
    /// Pieces of state that had to leave memory.
    pub evictions: Number,
    /// Bytes in memory.
    pub bytes: Number,
    /// Bytes in the folder.
    pub folder_bytes: Number,
    /// Bytes written to the folder.
    pub written_bytes: Number,
    /// Bytes read from the folder.
    pub read_bytes: Number,
}

impl PrefixMetrics {
    fn write(&self, text: &mut String) {
        for (name, help, number) in [
            (
                "prefix_hits",
                "Requests that went on from kept state",
                &self.hits,
            ),
            (
                "prefix_misses",
                "Requests that found no kept state",
                &self.misses,
            ),
            (
                "prefix_tokens",
                "Tokens of prompts found in kept state",
                &self.tokens,
            ),
            (
                "prefix_evictions",
                "Pieces of kept state that left memory",
                &self.evictions,
            ),
            (
                "prefix_written_bytes",
                "Bytes of kept state written",
                &self.written_bytes,
            ),
            (
                "prefix_read_bytes",
                "Bytes of kept state read",
                &self.read_bytes,
            ),
        ] {
            counter(text, name, help, number.get() as f64);
        }
        for (name, help, number) in [
            ("prefix_bytes", "Bytes of kept state in memory", &self.bytes),
            (
                "prefix_folder_bytes",
                "Bytes of kept state on disk",
                &self.folder_bytes,
            ),
        ] {
            gauge(text, name, help, number.get() as f64);
        }
    }
}

/// All figures of a server.
#[derive(Debug)]
pub struct Metrics {
    started: Instant,
    engine: Mutex<Option<Stats>>,
    /// The requests now.
    pub overview: Overview,
    /// Answers being computed.
    pub running: Number,
    /// Requests and answers that wait.
    pub waiting: Number,
    /// Steps of the engine.
    pub steps: Number,
    /// Tokens of prompts that were computed.
    pub prompt_tokens: Number,
    /// Tokens of answers.
    pub generated_tokens: Number,
    /// Tokens that were guessed and computed with the one before them.
    pub drafted_tokens: Number,
    /// Guessed tokens that were right.
    pub drafted_right: Number,
    /// Answers that ended by themselves.
    pub completed: Number,
    /// Answers that nobody waited for any more.
    pub cancelled: Number,
    /// Answers that failed.
    pub failed: Number,
    /// Requests refused because the queue was full.
    pub refused: Number,
    /// Answers that gave their memory up for others and were computed again.
    pub preempted: Number,
    /// HTTP requests.
    pub http_requests: Number,
    /// State of earlier requests.
    pub prefix: PrefixMetrics,
    /// From a request's arrival to its first step.
    pub queue_seconds: Histogram,
    /// From a request's arrival to its first token.
    pub first_token_seconds: Histogram,
    /// Between two tokens of an answer.
    pub token_seconds: Histogram,
    /// From a request's arrival to the end of an answer.
    pub request_seconds: Histogram,
    /// Steps of the engine.
    pub step_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            started: Instant::now(),
            engine: Mutex::new(None),
            overview: Overview::default(),
            running: Number::default(),
            waiting: Number::default(),
            steps: Number::default(),
            prompt_tokens: Number::default(),
            generated_tokens: Number::default(),
            drafted_tokens: Number::default(),
            drafted_right: Number::default(),
            completed: Number::default(),
            cancelled: Number::default(),
            failed: Number::default(),
            refused: Number::default(),
            preempted: Number::default(),
            http_requests: Number::default(),
            prefix: PrefixMetrics::default(),
            queue_seconds: Histogram::default(),
            first_token_seconds: Histogram::default(),
            token_seconds: Histogram::default(),
            request_seconds: Histogram::default(),
            step_seconds: Histogram::default(),
        }
    }
}

impl Metrics {
    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Replaces the engine's figures.
    pub fn set_engine(&self, stats: Stats) {
        let engine = self.engine.lock();
        *engine.unwrap_or_else(PoisonError::into_inner) = Some(stats);
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(8192);
        let uptime = self.uptime().as_secs_f64();
        gauge(&mut text, "uptime_seconds", "Time since the start", uptime);
        for (name, help, number) in [
            ("answers_running", "Answers being computed", &self.running),
            (
                "answers_waiting",
                "Requests and answers that wait",
                &self.waiting,
            ),
        ] {
            gauge(&mut text, name, help, number.get() as f64);
        }
        for (name, help, number) in [
            ("http_requests", "HTTP requests", &self.http_requests),
            ("steps", "Steps of the engine", &self.steps),
            (
                "prompt_tokens",
                "Tokens of prompts computed",
                &self.prompt_tokens,
            ),
            (
                "generated_tokens",
                "Tokens of answers",
                &self.generated_tokens,
            ),
            ("drafted_tokens", "Tokens guessed", &self.drafted_tokens),
            (
                "drafted_right",
                "Guessed tokens that were right",
                &self.drafted_right,
            ),
            (
                "answers_completed",
                "Answers that ended by themselves",
                &self.completed,
            ),
            (
                "answers_cancelled",
                "Answers that nobody waited for",
                &self.cancelled,
            ),
            ("answers_failed", "Answers that failed", &self.failed),
            (
                "requests_refused",
                "Requests refused by a full queue",
                &self.refused,
            ),
            (
                "answers_preempted",
                "Answers computed again for want of memory",
                &self.preempted,
            ),
        ] {
            counter(&mut text, name, help, number.get() as f64);
        }
        for (name, help, histogram) in [
            (
                "queue_seconds",
                "Arrival to first step",
                &self.queue_seconds,
            ),
            (
                "first_token_seconds",
                "Arrival to first token",
                &self.first_token_seconds,
            ),
            (
                "token_seconds",
                "Between two tokens of an answer",
                &self.token_seconds,
            ),
            (
                "request_seconds",
                "Arrival to the end of an answer",
                &self.request_seconds,
            ),
            ("step_seconds", "Steps of the engine", &self.step_seconds),
        ] {
            histogram.write(&mut text, &format!("moeflux_{name}"), help);
        }
        self.prefix.write(&mut text);
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stats) = &*engine {
            write_engine(&mut text, stats);
        }
        text
    }
}

fn write_engine(text: &mut String, stats: &Stats) {
    let experts = &stats.experts;
    for (name, help, value) in [
        ("expert_hits", "Experts found in memory", experts.hits),
        (
            "expert_misses",
            "Experts that had to be read",
            experts.misses,
        ),
        (
            "expert_bytes_read",
            "Bytes of experts read",
            experts.bytes_read,
        ),
    ] {
        counter(text, name, help, value as f64);
    }
    for (name, help, value) in [
        (
            "state_bytes",
            "Bytes of state in all sessions",
            stats.state_bytes,
        ),
        ("memory_limit_bytes", "The memory bound", stats.limit_bytes),
        (
            "expert_cache_bytes",
            "Memory for experts at the start",
            stats.memory.arena_bytes,
        ),
    ] {
        gauge(text, name, help, value as f64);
    }
}

fn counter(text: &mut String, name: &str, help: &str, value: f64) {
    let name = format!("moeflux_{name}_total");
    head(text, &name, help, "counter");
    line(text, &name, value);
}

fn gauge(text: &mut String, name: &str, help: &str, value: f64) {
    let name = format!("moeflux_{name}");
    head(text, &name, help, "gauge");
    line(text, &name, value);
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, value: f64) {
    let _ = writeln!(text, "{name} {value}");
}
