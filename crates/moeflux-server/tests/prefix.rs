//! The prefix cache: answers with it are those without it, token for token and bit for bit, from
//! wherever they go on; it finds what it should, stays in its bounds, and survives a restart.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{alone, collect, options};
use moeflux::sampling::SamplingParams;
use moeflux::{Engine, EngineOptions, PackOptions, pack};
use moeflux_server::metrics::Metrics;
use moeflux_server::prefix::{FolderError, PrefixCache, PrefixOptions};
use moeflux_server::scheduler::{Event, Job, Limits, Scheduler};

/// Begins a message in these tests.
const OPENING: u32 = 1;
/// Tokens of every answer.
const MOST: usize = 6;
/// With recurrent state beside attention, and without.
const MODELS: [&str; 2] = ["qwen3_5_moe_text", "qwen3_moe"];

/// A tiny model in a folder that goes away with it.
struct Model {
    dir: tempfile::TempDir,
    engine: Arc<Engine>,
}

impl Model {
    fn new(name: &str, options: &EngineOptions) -> Model {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fixtures")
            .join(name);
        let dir = tempfile::tempdir().unwrap();
        let packed = PackOptions {
            group: 32,
            ..PackOptions::default()
        };
        pack(&fixture, &dir.path().join("model"), &packed, &mut |_| {}).unwrap();
        let engine = Engine::open(&dir.path().join("model"), options).unwrap();
        let engine = Arc::new(engine);
        Model { dir, engine }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("prefixes")
    }

    /// Files of state in the folder.
    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder())
            .unwrap()
            .map(|e| e.unwrap().path());
        entries
            .filter(|path| path.extension().is_some_and(|e| e == "prefix"))
            .collect()
    }
}

fn silent(_: &str) {}

fn memory(bytes: u64) -> PrefixOptions {
    PrefixOptions {
        memory_bytes: bytes,
        folder: None,
        folder_bytes: 1 << 30,
        report: silent,
    }
}

struct Server {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    scheduler: Scheduler,
}

fn start(engine: &Arc<Engine>, options: PrefixOptions) -> Result<Server, FolderError> {
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
    fn ask(&self, prompt: &[u32], params: &SamplingParams) -> (Vec<u32>, usize) {
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
    fn check(&self, prompt: &[u32], params: &SamplingParams) -> (Vec<u32>, usize) {
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
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) as usize % end
    }

    /// So many tokens, none of which begins a message.
    fn tokens(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| 2 + self.below(200) as u32).collect()
    }

    fn message(&mut self, count: usize) -> Vec<u32> {
        [vec![OPENING], self.tokens(count - 1)].concat()
    }
}

fn greedy() -> SamplingParams {
    SamplingParams::default()
}

fn drawn(seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        seed,
        ..SamplingParams::default()
    }
}

#[test]
fn answers_are_the_same_wherever_they_go_on() {
    for name in MODELS {
        let model = Model::new(name, &options());
        let mut random = Random(7);
        let whole = random.tokens(330);
        for cut in 60..whole.len() {
            // What is asked first makes a place to go on from; the rest differs.
            let server = start(&model.engine, memory(64 << 20)).unwrap();
            server.check(&whole[..cut], &greedy());
            let changed = [&whole[..cut], &random.tokens(40)].concat();
            let (_, cached) = server.check(&changed, &drawn(cut as u64));
            assert!(
                cached < cut + MOST && (cached > 0 || cut <= 65),
                "{name}: {cached} of {cut}"
            );
            let (_, again) = server.check(&changed, &drawn(cut as u64));
            assert!(
                again >= cached && again < changed.len(),
                "{name}: {again} of {cut}"
            );
        }
    }
}

#[test]
fn conversations_that_part_and_go_on_stay_exact_while_state_comes_and_goes() {
    for (name, bytes, disk) in MODELS.into_iter().flat_map(|name| {
        [
            (name, 64 << 20, false),
            (name, 400 << 10, false),
            (name, 400 << 10, true),
        ]
    }) {
        let model = Model::new(name, &options());
        let folder = disk.then(|| model.folder());
        let prefix = || PrefixOptions {
            folder: folder.clone(),
            folder_bytes: 2 << 20,
            ..memory(bytes)
        };
        let mut server = start(&model.engine, prefix()).unwrap();
        let mut random = Random(bytes + u64::from(disk));
        let mut known: Vec<Vec<u32>> = vec![random.message(150)];
        let mut saved = 0;
        for round in 0..60 {
            if round % 20 == 19 {
                drop(server);
                server = start(&model.engine, prefix()).unwrap();
            }
            let old = known[random.below(known.len())].clone();
            let keep = if random.below(2) == 0 {
                old.len()
            } else {
                random.below(old.len())
            };
            let length = 3 + random.below(120);
            let prompt = [&old[..keep], &random.message(length)].concat();
            let (answer, cached) = server.check(&prompt, &drawn(round));
            saved += cached;
            known.push([prompt, answer].concat());
        }
        assert!(saved > 200, "{name}: only {saved} tokens were found");
        let bound = server.metrics.prefix.bytes.get();
        assert!(bound <= bytes, "{name}: {bound} bytes kept");
        let small = bytes < 1 << 20;
        assert!(
            !small || server.metrics.prefix.evictions.get() > 0,
            "{name}"
        );
        assert!(server.metrics.prefix.folder_bytes.get() <= 2 << 20);
    }
}

#[test]
fn what_messages_have_in_common_is_computed_once() {
    for name in MODELS {
        let model = Model::new(name, &options());
        let server = start(&model.engine, memory(64 << 20)).unwrap();
        let mut random = Random(3);
        let (system, question) = (random.message(300), random.message(100));
        let prompt = [&system[..], &question, &[OPENING, 5]].concat();
        let (answer, cached) = server.check(&prompt, &greedy());
        assert_eq!(cached, 0);
        // The same again: all but the opening of the answer, or all but the last token.
        let (_, again) = server.check(&prompt, &greedy());
        assert!(again == 400 || again == prompt.len() - 1, "{name}: {again}");
        // Another question.
        let other = [&system[..], &random.message(90), &[OPENING, 5]].concat();
        assert!(server.check(&other, &greedy()).1 >= 300, "{name}");
        // The next turn.
        let turn = [&prompt[..], &answer, &random.message(80), &[OPENING, 5]].concat();
        assert!(server.check(&turn, &greedy()).1 >= 400, "{name}");
        // Other words for the last message.
        let edited = [&prompt[..], &answer, &random.message(70), &[OPENING, 5]].concat();
        let (_, cached) = server.check(&edited, &greedy());
        assert!(cached >= 400, "{name}: {cached}");
        let prefix = &server.metrics.prefix;
        assert_eq!((prefix.hits.get(), prefix.misses.get()), (4, 1));
    }
}

#[test]
fn a_restart_finds_what_was_written() {
    for name in MODELS {
        let model = Model::new(name, &options());
        let prefix = || PrefixOptions {
            folder: Some(model.folder()),
            ..memory(64 << 20)
        };
        let mut random = Random(5);
        let system = random.message(500);
        let prompts: Vec<Vec<u32>> = (0..4)
            .map(|_| [&system[..], &random.message(80)].concat())
            .collect();
        let server = start(&model.engine, prefix()).unwrap();
        for prompt in &prompts {
            server.check(prompt, &greedy());
        }
        let before: Vec<usize> = prompts
            .iter()
            .map(|p| server.check(p, &greedy()).1)
            .collect();
        drop(server);
        let written = model.files().len();
        assert!(written > 0);
        let engine = Engine::open(&model.dir.path().join("model"), &options()).unwrap();
        let server = start(&Arc::new(engine), prefix()).unwrap();
        assert_eq!(
            server.metrics.prefix.bytes.get(),
            0,
            "nothing is read unasked"
        );
        for (prompt, before) in prompts.iter().zip(before) {
            let (_, cached) = server.check(prompt, &greedy());
            assert_eq!(cached, before, "{name}");
        }
        assert!(server.metrics.prefix.read_bytes.get() > 0);
    }
}

#[test]
fn state_of_other_arithmetic_is_not_used() {
    let model = Model::new(MODELS[0], &options());
    let prefix = || PrefixOptions {
        folder: Some(model.folder()),
        ..memory(64 << 20)
    };
    let prompt = Random(9).message(200);
    let server = start(&model.engine, prefix()).unwrap();
    server.check(&prompt, &greedy());
    drop(server);
    let exact = EngineOptions {
        activations: moeflux::Activations::F32,
        ..options()
    };
    let engine = Engine::open(&model.dir.path().join("model"), &exact).unwrap();
    let server = start(&Arc::new(engine), prefix()).unwrap();
    assert_eq!(server.check(&prompt, &greedy()).1, 0);
    drop(server);
    let server = start(&model.engine, prefix()).unwrap();
    assert!(
        server.check(&prompt, &greedy()).1 > 0,
        "the first one's files are still there"
    );
}

#[test]
fn damaged_files_are_removed_and_computed_again() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    fn count(text: &str) {
        assert!(
            text.contains(".prefix") && text.contains("removed"),
            "{text}"
        );
        TOLD.fetch_add(1, Ordering::SeqCst);
    }
    for name in MODELS {
        let model = Model::new(name, &options());
        let prefix = || PrefixOptions {
            folder: Some(model.folder()),
            report: count,
            ..memory(64 << 20)
        };
        let prompt = Random(11).message(400);
        drop({
            let server = start(&model.engine, prefix()).unwrap();
            server.check(&prompt, &greedy());
            server
        });
        let files = model.files();
        let whole: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
        for damage in ["header", "payload", "cut", "empty", "gone"] {
            for (damaged, bytes) in files.iter().zip(&whole) {
                for (file, bytes) in files.iter().zip(&whole) {
                    std::fs::write(file, bytes).unwrap();
                }
                let mut changed = bytes.clone();
                let end = changed.len();
                match damage {
                    "header" => changed[70] ^= 1,
                    "payload" => changed[end - 20] ^= 1,
                    "cut" => changed.truncate(end - 1),
                    _ => changed.clear(),
                }
                match damage {
                    "gone" => std::fs::remove_file(damaged).unwrap(),
                    _ => std::fs::write(damaged, changed).unwrap(),
                }
                let before = TOLD.load(Ordering::SeqCst);
                let server = start(&model.engine, prefix()).unwrap();
                server.check(&prompt, &greedy());
                drop(server);
                let told = TOLD.load(Ordering::SeqCst) - before;
                let read = damage != "payload" || told > 0;
                assert!(
                    told == usize::from(damage != "gone") || !read,
                    "{name} {damage}: {told}"
                );
            }
        }
    }
}

#[test]
fn a_folder_belongs_to_one_server_and_stays_in_its_bound() {
    let model = Model::new(MODELS[1], &options());
    let prefix = |bytes| PrefixOptions {
        folder: Some(model.folder()),
        folder_bytes: bytes,
        ..memory(64 << 20)
    };
    let mut random = Random(13);
    let server = start(&model.engine, prefix(1 << 30)).unwrap();
    for _ in 0..8 {
        server.check(&random.message(300), &greedy());
    }
    let second = start(&model.engine, prefix(1 << 30));
    assert!(
        matches!(second, Err(FolderError::InUse { .. })),
        "{:?}",
        second.err()
    );
    drop(server);
    let size = || -> u64 {
        model
            .files()
            .iter()
            .map(|f| std::fs::metadata(f).unwrap().len())
            .sum()
    };
    let all = size();
    std::fs::write(model.folder().join("notes.txt"), "not ours").unwrap();
    let server = start(&model.engine, prefix(all / 2)).unwrap();
    assert!(size() <= all / 2 && size() > 0, "{} of {all}", size());
    drop(server);
    assert!(model.folder().join("notes.txt").exists());
    let file = model.dir.path().join("a file");
    std::fs::write(&file, "").unwrap();
    let options = PrefixOptions {
        folder: Some(file),
        ..memory(1 << 20)
    };
    let refused = start(&model.engine, options);
    assert!(matches!(refused, Err(FolderError::Unusable { .. })));
}

#[test]
fn state_is_counted_once_and_gives_way_to_answers() {
    let model = Model::new(MODELS[0], &options());
    let mut random = Random(17);
    let server = start(&model.engine, memory(64 << 20)).unwrap();
    for _ in 0..4 {
        server.check(&random.message(200), &greedy());
    }
    let (kept, state) = (
        server.metrics.prefix.bytes.get(),
        model.engine.stats().state_bytes,
    );
    assert!(
        kept > 0 && state <= kept,
        "{state} bytes of state for {kept} kept"
    );
    drop(server);
    assert_eq!(model.engine.stats().state_bytes, 0);

    let least = match Engine::open(
        &model.dir.path().join("model"),
        &EngineOptions {
            memory_bytes: Some(1 << 20),
            ..options()
        },
    ) {
        Err(moeflux::Error::MemoryBudget { needed, .. }) => needed,
        other => unreachable!("a megabyte is enough: {:?}", other.map(|_| ())),
    };
    let tight = EngineOptions {
        memory_bytes: Some(least + (2 << 20)),
        ..options()
    };
    let engine = Engine::open(&model.dir.path().join("model"), &tight).unwrap();
    let server = start(&Arc::new(engine), memory(1 << 30)).unwrap();
    for _ in 0..40 {
        let prompt = random.message(400);
        let (answer, _) = server.ask(&prompt, &greedy());
        assert_eq!(answer, alone(&model.engine, &prompt, greedy(), MOST));
    }
    assert!(
        server.metrics.prefix.evictions.get() > 0,
        "memory was never short"
    );
}

#[test]
fn a_job_that_is_given_up_leaves_what_it_computed() {
    let model = Model::new(MODELS[1], &options());
    let server = start(&model.engine, memory(64 << 20)).unwrap();
    let prompt = Random(19).message(300);
    let mut events = server.scheduler.submit(Job::new(prompt.clone())).unwrap();
    while !matches!(events.blocking_recv(), Some(Event::Token { .. })) {}
    drop(events);
    let (_, cached) = server.check(&prompt, &greedy());
    assert_eq!(cached, prompt.len() - 1);
}
