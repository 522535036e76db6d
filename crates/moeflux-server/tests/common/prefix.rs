//! A scheduler with a prefix cache over a tiny model, and questions to it.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moeflux::sampling::SamplingParams;
use moeflux::{Engine, EngineOptions, PackOptions, pack};
use moeflux_server::metrics::Metrics;
use moeflux_server::prefix::{FolderError, PrefixCache, PrefixOptions};
use moeflux_server::scheduler::{Event, Job, Limits, Scheduler};

use super::common::{alone, collect};

/// Begins a message in these tests.
pub const OPENING: u32 = 1;
/// Tokens of every answer.
pub const MOST: usize = 6;
/// With recurrent state beside attention, with attention alone, and with windows.
pub const MODELS: [&str; 3] = ["qwen3_5_moe_text", "qwen3_moe", "gpt_oss"];

/// A tiny model in a folder that goes away with it.
pub struct Model {
    pub dir: tempfile::TempDir,
    pub engine: Arc<Engine>,
}

impl Model {
    pub fn new(name: &str, options: &EngineOptions) -> Model {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fixtures")
            .join(name);
        let dir = tempfile::tempdir().unwrap();
        let packed = PackOptions {
            group: Some(32),
            ..PackOptions::default()
        };
        pack(&fixture, &dir.path().join("model"), &packed, &mut |_| {}).unwrap();
        let engine = Engine::open(&dir.path().join("model"), options).unwrap();
        let engine = Arc::new(engine);
        Model { dir, engine }
    }

    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("prefixes")
    }

    /// Files of state in the folder.
    pub fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder())
            .unwrap()
            .map(|e| e.unwrap().path());
        entries
            .filter(|path| path.extension().is_some_and(|e| e == "prefix"))
            .collect()
    }
}

pub fn silent(_: &str) {}

pub fn memory(bytes: u64) -> PrefixOptions {
    PrefixOptions {
        memory_bytes: bytes,
        folder: None,
        folder_bytes: 1 << 30,
        report: silent,
    }
}

pub struct Server {
    pub engine: Arc<Engine>,
    pub metrics: Arc<Metrics>,
    pub scheduler: Scheduler,
}

pub fn start(engine: &Arc<Engine>, options: PrefixOptions) -> Result<Server, FolderError> {
    let metrics = Arc::new(Metrics::default());
    let prefix = PrefixCache::open(
        Arc::clone(engine),
        options,
        vec![OPENING],
        Arc::clone(&metrics),
    )?;
    let limits = Limits::default();
    let scheduler = Scheduler::start(
        Arc::clone(engine),
        &limits,
        Arc::clone(&metrics),
        Some(prefix),
    )
    .unwrap();
    Ok(Server {
        engine: Arc::clone(engine),
        metrics,
        scheduler,
    })
}

impl Server {
    /// The answer to a prompt, and how many of its tokens were known.
    pub fn ask(&self, prompt: &[u32], params: &SamplingParams) -> (Vec<u32>, usize) {
        let mut job = Job::new(prompt.to_vec());
        (job.max_tokens, job.sampling) = (Some(MOST), params.clone());
        let mut events = self.scheduler.submit(job).unwrap();
        let Some(Event::Begin { cached_tokens }) = events.blocking_recv() else {
            unreachable!("a job begins");
        };
        let (tokens, _) = collect(events, 1).unwrap().remove(0);
        (tokens, cached_tokens)
    }

    /// Asks, and compares with a generation that knows nothing.
    #[track_caller]
    pub fn check(&self, prompt: &[u32], params: &SamplingParams) -> (Vec<u32>, usize) {
        let (tokens, cached) = self.ask(prompt, params);
        assert_eq!(
            tokens,
            alone(&self.engine, prompt, params.clone(), MOST),
            "{cached} cached"
        );
        (tokens, cached)
    }
}

/// Numbers that look random.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) as usize % end
    }

    /// So many tokens, none of which begins a message.
    pub fn tokens(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| 2 + self.below(200) as u32).collect()
    }

    pub fn message(&mut self, count: usize) -> Vec<u32> {
        [vec![OPENING], self.tokens(count - 1)].concat()
    }
}

pub fn greedy() -> SamplingParams {
    SamplingParams::default()
}

pub fn drawn(seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        seed,
        ..SamplingParams::default()
    }
}
