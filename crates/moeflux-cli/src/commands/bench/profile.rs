//! Where the time of a test goes, by kind of operation.

use std::time::Instant;

use moeflux::Engine;
use moeflux::cost::{StepShape, Work};
use serde_json::{Value, json};

/// Takes the time of every operation as it ends.
pub struct Recorder {
    seconds: Vec<f64>,
    /// The operation that runs now.
    at: usize,
    since: Instant,
}

impl Recorder {
    /// A recorder for steps of `ops` operations.
    pub fn new(ops: usize) -> Recorder {
        Recorder {
            seconds: vec![0.0; ops],
            at: 0,
            since: Instant::now(),
        }
    }

    /// The next step begins: time since the last operation is not the first one's.
    pub fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// An operation has ended.
    pub fn end(&mut self) {
        let now = Instant::now();
        if let Some(seconds) = self.seconds.get_mut(self.at) {
            *seconds += (now - self.since).as_secs_f64();
        }
        self.at = (self.at + 1) % self.seconds.len().max(1);
        self.since = now;
    }

    /// The profile of `steps`, which took `total_seconds`; the slowest kind of operation first.
    pub fn finish(
        self,
        engine: &Engine,
        test: String,
        steps: &[StepShape],
        total_seconds: f64,
    ) -> Profile {
        let mut ops: Vec<OpTime> = Vec::new();
        for (cost, seconds) in engine.costs().iter().zip(self.seconds) {
            let (name, codec) = (&cost.name, cost.codecs());
            let at = ops
                .iter()
                .position(|op| op.name == *name && op.codec == codec);
            let at = at.unwrap_or_else(|| {
                ops.push(OpTime {
                    name: name.clone(),
                    codec,
                    ..OpTime::default()
                });
                ops.len() - 1
            });
            let op = &mut ops[at];
            op.seconds += seconds;
            for step in steps.iter().filter(|step| cost.rows(**step) > 0) {
                op.calls += 1;
                op.work += cost.work(*step);
            }
        }
        ops.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Profile {
            test,
            threads: engine.stats().threads,
            steps: steps.len(),
            total_seconds,
            ops,
        }
    }
}

/// The time of one kind of operation in a test.
#[derive(Default)]
struct OpTime {
    name: String,
    codec: String,
    calls: usize,
    seconds: f64,
    work: Work,
}

impl OpTime {
    /// Bytes and multiply-adds a second; `None` where there are none.
    fn rates(&self) -> [Option<f64>; 2] {
        let multiply_adds = self.work.multiply_adds + self.work.float_multiply_adds;
        [self.work.bytes, multiply_adds]
            .map(|amount| (amount > 0.0 && self.seconds > 0.0).then(|| amount / self.seconds))
    }
}

/// Where the time of one repetition of a test went.
pub struct Profile {
    test: String,
    threads: usize,
    steps: usize,
    total_seconds: f64,
    ops: Vec<OpTime>,
}

impl Profile {
    /// A table for people.
    pub fn text(&self) -> String {
        let total = self.total_seconds;
        let mut lines = vec![
            format!(
                "{}, {} threads: {:.2} ms in {} steps",
                self.test,
                self.threads,
                total * 1e3,
                self.steps
            ),
            format!(
                "| {:<44} | {:<14} | {:>6} | {:>9} | {:>6} | {:>7} | {:>7} |",
                "operation", "codec", "calls", "ms", "share", "GB/s", "GMAC/s"
            ),
            format!(
                "|:{:-<44}-|:{:-<14}-|-{:->6}:|-{:->9}:|-{:->6}:|-{:->7}:|-{:->7}:|",
                "", "", "", "", "", "", ""
            ),
        ];
        let rate = |rate: Option<f64>| rate.map_or(String::new(), |r| format!("{:.2}", r * 1e-9));
        for op in &self.ops {
            let [bytes, macs] = op.rates().map(rate);
            lines.push(format!(
                "| {:<44} | {:<14} | {:>6} | {:>9.3} | {:>4.1} % | {bytes:>7} | {macs:>7} |",
                op.name,
                op.codec,
                op.calls,
                op.seconds * 1e3,
                op.seconds / total * 100.0,
            ));
        }
        lines.push(format!(
            "| {:<44} | {:<14} | {:>6} | {:>9.3} | {:>4.1} % | {:>7} | {:>7} |",
            "between operations and steps",
            "",
            self.steps,
            self.outside() * 1e3,
            self.outside() / total * 100.0,
            "",
            "",
        ));
        lines.join("\n")
    }

    /// Seconds that belong to no operation.
    fn outside(&self) -> f64 {
        let inside: f64 = self.ops.iter().map(|op| op.seconds).sum();
        (self.total_seconds - inside).max(0.0)
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let ops = self.ops.iter().map(|op| {
            let [bytes, multiply_adds] = op.rates();
            json!({
                "op": op.name,
                "codec": op.codec,
                "calls": op.calls,
                "ms": op.seconds * 1e3,
                "share": op.seconds / self.total_seconds,
                "gb_s": bytes.map(|rate| rate * 1e-9),
                "gmac_s": multiply_adds.map(|rate| rate * 1e-9),
            })
        });
        json!({
            "test": self.test,
            "threads": self.threads,
            "steps": self.steps,
            "total_ms": self.total_seconds * 1e3,
            "outside_ms": self.outside() * 1e3,
            "ops": ops.collect::<Vec<_>>(),
        })
    }
}
