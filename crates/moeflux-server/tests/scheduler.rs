//! The scheduler with the demo model: answers do not depend on their neighbours, and every request
//! ends as it should.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{alone, collect, engine, options, question, text_files};
use moeflux::sampling::SamplingParams;
use moeflux::{Engine, EngineOptions};
use moeflux_server::metrics::Metrics;
use moeflux_server::scheduler::{End, Event, Job, JobError, Limits, Refused, Scheduler};

const QUESTIONS: [&str; 6] = [
    "Which day comes after Tuesday?",
    "Tell me a story about a fox.",
    "Count from 5 to 24.",
    "What is the capital of Egypt?",
    "What is 26 + 71?",
    "Spell the word argentina.",
];

struct Setup {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    scheduler: Scheduler,
}

fn start(options: &EngineOptions, limits: &Limits) -> Setup {
    let engine = Arc::new(engine(options));
    let metrics = Arc::new(Metrics::default());
    let scheduler =
        Scheduler::start(Arc::clone(&engine), limits, Arc::clone(&metrics), None).unwrap();
    Setup {
        engine,
        metrics,
        scheduler,
    }
}

fn sampled(seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        seed,
        ..SamplingParams::default()
    }
}

#[test]
fn answers_do_not_depend_on_neighbours() {
    const MOST: usize = 40;
    let limits = Limits {
        parallel: 4,
        shared_chunk_tokens: 7,
        ..Limits::default()
    };
    let setup = start(&options(), &limits);
    let (tokenizer, _) = text_files();
    let mut running = Vec::new();
    for (seed, text) in (0..).zip(QUESTIONS) {
        let prompt = question(&tokenizer, text);
        let params = match seed % 2 {
            0 => sampled(seed),
            _ => SamplingParams::default(),
        };
        let mut job = Job::new(prompt.clone());
        job.sampling = params.clone();
        job.max_tokens = Some(MOST);
        running.push((prompt, params, setup.scheduler.submit(job).unwrap()));
    }
    for (prompt, params, events) in running {
        let (tokens, end) = collect(events, 1).unwrap().remove(0);
        assert_eq!(end, End::Length);
        assert_eq!(tokens, alone(&setup.engine, &prompt, params, MOST));
    }
    assert!(
        setup.metrics.steps.get() < (QUESTIONS.len() * MOST) as u64,
        "{} steps: none was shared",
        setup.metrics.steps.get()
    );
}

#[test]
fn choices_are_answers_with_seeds_of_their_own() {
    let limits = Limits {
        parallel: 2,
        ..Limits::default()
    };
    let setup = start(&options(), &limits);
    let (tokenizer, _) = text_files();
    let prompt = question(&tokenizer, QUESTIONS[1]);
    let mut job = Job::new(prompt.clone());
    (job.choices, job.sampling, job.max_tokens) = (4, sampled(7), Some(20));
    let answers = collect(setup.scheduler.submit(job).unwrap(), 4).unwrap();
    for (seed, (tokens, _)) in (7..).zip(&answers) {
        assert_eq!(*tokens, alone(&setup.engine, &prompt, sampled(seed), 20));
    }
    assert!(answers.iter().any(|a| a.0 != answers[0].0), "seeds matter");
    assert_eq!(setup.metrics.prompt_tokens.get(), prompt.len() as u64);
}

#[test]
fn memory_for_few_sessions_serves_many() {
    // Room for the model and a few pages only: answers give way to each other and go on later.
    let setup = start(&options(), &Limits::default());
    let least = match Engine::open(
        &common::demo(),
        &EngineOptions {
            memory_bytes: Some(1 << 20),
            ..options()
        },
    ) {
        Err(moeflux::Error::MemoryBudget { needed, .. }) => needed,
        other => panic!("a megabyte is enough: {:?}", other.map(|_| ())),
    };
    let tight = EngineOptions {
        memory_bytes: Some(least + (6 << 20)),
        ..options()
    };
    let tight = start(&tight, &Limits::default());
    let (tokenizer, _) = text_files();
    let long = "The code of Ada is 6178. ".repeat(40);
    let prompts: Vec<Vec<u32>> = (0..8)
        .map(|i| question(&tokenizer, &format!("{long} {}", QUESTIONS[i % 6])))
        .collect();
    let submit = |setup: &Setup, prompt: &[u32]| {
        let mut job = Job::new(prompt.to_vec());
        job.max_tokens = Some(12);
        setup.scheduler.submit(job).unwrap()
    };
    let few: Vec<_> = prompts.iter().map(|p| submit(&tight, p)).collect();
    let many: Vec<_> = prompts.iter().map(|p| submit(&setup, p)).collect();
    for (few, many) in few.into_iter().zip(many) {
        assert_eq!(collect(few, 1).unwrap(), collect(many, 1).unwrap());
    }
    assert!(tight.metrics.preempted.get() > 0, "memory was never short");
}

#[test]
fn a_dropped_receiver_ends_the_job() {
    let setup = start(&options(), &Limits::default());
    let (tokenizer, _) = text_files();
    let mut job = Job::new(question(&tokenizer, QUESTIONS[1]));
    job.max_tokens = Some(4000);
    let mut events = setup.scheduler.submit(job).unwrap();
    assert!(matches!(events.blocking_recv(), Some(Event::Begin { .. })));
    assert!(matches!(events.blocking_recv(), Some(Event::Token { .. })));
    drop(events);
    // A job that comes later finds the first one gone.
    let mut job = Job::new(question(&tokenizer, QUESTIONS[0]));
    job.max_tokens = Some(5);
    collect(setup.scheduler.submit(job).unwrap(), 1).unwrap();
    assert_eq!(setup.metrics.cancelled.get(), 1);
    assert!(setup.metrics.generated_tokens.get() < 4000);
}

#[test]
fn a_full_queue_refuses_and_a_deadline_ends() {
    let limits = Limits {
        parallel: 1,
        queue: 1,
        ..Limits::default()
    };
    let setup = start(&options(), &limits);
    let (tokenizer, _) = text_files();
    let prompt = question(&tokenizer, QUESTIONS[1]);
    let endless = || {
        let mut job = Job::new(prompt.clone());
        job.max_tokens = Some(6000);
        job
    };
    let mut first = setup.scheduler.submit(endless()).unwrap();
    assert!(matches!(first.blocking_recv(), Some(Event::Begin { .. })));
    assert!(matches!(first.blocking_recv(), Some(Event::Token { .. })));
    let mut late = endless();
    late.deadline = Some(Instant::now());
    let mut second = setup.scheduler.submit(late).unwrap();
    match setup.scheduler.submit(endless()) {
        Err(Refused::Full(1)) => assert_eq!(setup.metrics.refused.get(), 1),
        // The second was let go of already.
        Ok(_) => {}
        Err(other) => panic!("{other}"),
    }
    assert_eq!(
        second.blocking_recv(),
        Some(Event::Failed(JobError::Deadline))
    );
    setup.scheduler.drain();
    assert_eq!(
        setup.scheduler.submit(endless()).err(),
        Some(Refused::Stopping)
    );
    drop(setup.scheduler);
    let last = std::iter::from_fn(|| first.blocking_recv()).last();
    assert_eq!(last, Some(Event::Failed(JobError::Stopped)));
}

#[test]
fn prompts_that_do_not_fit_fail_alone() {
    let setup = start(&options(), &Limits::default());
    let (tokenizer, _) = text_files();
    let context = setup.engine.session().context_tokens();
    let mut good = Job::new(question(&tokenizer, QUESTIONS[0]));
    good.max_tokens = Some(8);
    let good = setup.scheduler.submit(good).unwrap();
    let mut wrong = Job::new(vec![0, u32::MAX]);
    wrong.max_tokens = Some(8);
    for job in [Job::new(Vec::new()), Job::new(vec![0; context]), wrong] {
        let failed = collect(setup.scheduler.submit(job).unwrap(), 1);
        assert!(matches!(failed, Err(JobError::Prompt(_))), "{failed:?}");
    }
    assert_eq!(collect(good, 1).unwrap()[0].0.len(), 8);
}

#[test]
fn the_context_bounds_an_answer() {
    let narrow = EngineOptions {
        max_context: Some(32),
        ..options()
    };
    let setup = start(&narrow, &Limits::default());
    let (tokenizer, _) = text_files();
    let prompt = question(&tokenizer, QUESTIONS[1]);
    let (tokens, end) = collect(setup.scheduler.submit(Job::new(prompt.clone())).unwrap(), 1)
        .unwrap()
        .remove(0);
    assert_eq!(end, End::Length);
    assert_eq!(tokens.len(), 33 - prompt.len());
    assert_eq!(
        tokens,
        alone(&setup.engine, &prompt, SamplingParams::default(), 99)
    );
}

#[test]
fn idle_threads_do_nothing() {
    let setup = start(&options(), &Limits::default());
    let (tokenizer, _) = text_files();
    let mut job = Job::new(question(&tokenizer, QUESTIONS[0]));
    job.max_tokens = Some(8);
    collect(setup.scheduler.submit(job).unwrap(), 1).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let steps = setup.metrics.steps.get();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(setup.metrics.steps.get(), steps);
    assert_eq!(setup.metrics.running.get(), 0);
    assert_eq!(setup.engine.stats().state_bytes, 0, "no session is left");
}
