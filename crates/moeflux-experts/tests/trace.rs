//! Traces: written and read back, cut anywhere, damaged anyhow, and replayed.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::fs;
use std::path::Path;

use common::{Fixture, Layout, Random};
use moeflux_experts::{
    ExpertError, Pass, PolicyKind, Replay, ReplayPolicy, Residency, Trace, TraceHeader, TraceWriter,
};
use proptest::prelude::*;

const LAYERS: [usize; 3] = [1, 3, 5];
const EXPERTS: u32 = 16;
const TOP_K: usize = 4;

fn header(experts: u32) -> TraceHeader {
    TraceHeader {
        model: "a model".into(),
        identity: 0x1234_5678_9abc_def0,
        slot_bytes: 4096,
        top_k: TOP_K as u32,
        layers: LAYERS.map(|layer| (layer as u32, experts)).to_vec(),
    }
}

/// Choices of `tokens` tokens: skewed, as routers are, and weights that bf16 holds.
fn choices(random: &mut Random, experts: u32, tokens: usize) -> (Vec<u32>, Vec<f32>) {
    let mut choose = |_| {
        let some = if random.next().is_multiple_of(3) {
            experts
        } else {
            experts / 3
        };
        random.distinct(some, TOP_K)
    };
    let ids: Vec<u32> = (0..tokens).flat_map(&mut choose).collect();
    let weights = (0..ids.len()).map(|at| (at % 7) as f32 / 8.0).collect();
    (ids, weights)
}

/// A step as it is given to a writer: pass, and for each layer ids and weights.
type Step = (Pass, Vec<(Vec<u32>, Vec<f32>)>);

fn steps(experts: u32) -> Vec<Step> {
    let mut random = Random(5);
    let mut step = |(pass, tokens, layers): (Pass, usize, usize)| {
        let layers = (0..layers).map(|_| choices(&mut random, experts, tokens));
        (pass, layers.collect())
    };
    let scan = |again| Pass::Scan { again };
    // The third step fails in its second layer.
    let shapes = [
        (scan(true), 20, 3),
        (scan(false), 9, 3),
        (Pass::Sparse, 1, 2),
        (Pass::Sparse, 1, 3),
        (Pass::Sparse, 2, 3),
    ];
    shapes.into_iter().map(&mut step).collect()
}

fn write(path: &Path, experts: u32, steps: &[Step]) {
    let mut writer = TraceWriter::create(path, &header(experts)).unwrap();
    for (pass, layers) in steps {
        for ((ids, weights), layer) in layers.iter().zip(LAYERS) {
            writer.record(*pass, layer, ids, weights).unwrap();
        }
    }
}

fn assert_holds(trace: &Trace, steps: &[Step]) {
    assert_eq!(trace.steps.len(), steps.len());
    for (found, (pass, layers)) in trace.steps.iter().zip(steps) {
        assert_eq!(found.pass, *pass);
        assert_eq!(found.tokens as usize * TOP_K, layers[0].0.len());
        assert_eq!(found.layers.len(), layers.len());
        for (turn, (found, (ids, weights))) in found.layers.iter().zip(layers).enumerate() {
            assert_eq!(found.turn as usize, turn);
            assert_eq!((&found.ids, &found.weights), (ids, weights));
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    for experts in [16, 256, 257, 1000] {
        let steps = steps(experts);
        write(&path, experts, &steps);
        let trace = Trace::read(&path).unwrap();
        assert_eq!(trace.header, header(experts));
        assert!(!trace.truncated);
        assert_holds(&trace, &steps);
    }
}

#[test]
fn a_torn_end_loses_one_step_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    let steps = steps(EXPERTS);
    let mut ends = Vec::new();
    for count in 0..=steps.len() {
        write(&path, EXPERTS, &steps[..count]);
        ends.push(fs::metadata(&path).unwrap().len() as usize);
    }
    let whole = fs::read(&path).unwrap();
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        let read = Trace::read(&path);
        if len < ends[0] {
            assert!(
                matches!(read, Err(ExpertError::Trace { .. })),
                "{len}: {read:?}"
            );
            continue;
        }
        let trace = read.unwrap();
        let kept = ends.iter().filter(|&&end| end <= len).count() - 1;
        assert_holds(&trace, &steps[..kept]);
        assert_eq!(trace.truncated, !ends.contains(&len));
    }
    // So does a last step whose bytes did not all reach the disk.
    let mut longer = whole.clone();
    *longer.last_mut().unwrap() ^= 1;
    fs::write(&path, &longer).unwrap();
    assert_holds(&Trace::read(&path).unwrap(), &steps[..steps.len() - 1]);
}

#[test]
fn errors_name_the_file_and_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    let message = |path: &Path| Trace::read(path).unwrap_err().to_string();
    assert!(
        message(&path).contains("cannot read the trace"),
        "{}",
        message(&path)
    );
    fs::write(&path, b"GGUF and so on, and on").unwrap();
    let found = message(&path);
    assert!(
        found.contains("does not begin as one") && found.contains("trace"),
        "{found}"
    );
    write(&path, EXPERTS, &steps(EXPERTS));
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 9;
    fs::write(&path, &bytes).unwrap();
    assert!(message(&path).contains("its version is 9, this program reads 1"));
    bytes[8] = 1;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(message(&path).contains("is damaged"), "{}", message(&path));
    let nowhere = TraceWriter::create(&dir.path().join("no/trace"), &header(EXPERTS));
    let nowhere = nowhere.unwrap_err().to_string();
    assert!(nowhere.contains("cannot create the trace"), "{nowhere}");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        garbage in prop::collection::vec(any::<u8>(), 0..600),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        fs::write(&path, &garbage).unwrap();
        prop_assert!(Trace::read(&path).is_err());
        write(&path, EXPERTS, &steps(EXPERTS));
        let mut bytes = fs::read(&path).unwrap();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        fs::write(&path, &bytes).unwrap();
        if let Ok(trace) = Trace::read(&path) {
            prop_assert!(trace.steps.len() <= 5);
            let replay = Replay::new(&[trace]).unwrap();
            replay.run(ReplayPolicy::Belady, 3);
        }
    }
}

/// Runs steps of one token through a residency that writes a trace of them.
fn recorded(fixture: &Fixture, policy: PolicyKind, slots: usize, path: &Path) -> Residency {
    let mut options = fixture.options(slots);
    options.policy = policy;
    let mut residency = fixture.open(options);
    residency.trace_to(path, "a model", 7, TOP_K).unwrap();
    let mut random = Random(slots as u64);
    for _ in 0..120 {
        residency.begin_pass(Pass::Sparse);
        for layer in LAYERS {
            let (ids, weights) = choices(&mut random, EXPERTS, 1);
            residency.note(layer, &ids, &weights).unwrap();
            let mut sorted = ids.clone();
            sorted.sort_unstable();
            fixture.take(&mut residency, layer, &sorted);
        }
    }
    residency
}

#[test]
fn a_replay_counts_what_residency_counted() {
    let fixture = Fixture::new(11, LAYERS.len(), EXPERTS, 64..65, Layout::Scattered);
    let path = fixture.dir.path().join("trace");
    for policy in PolicyKind::ALL {
        for slots in [4, 9, 12, 24, 40, 48] {
            let stats = recorded(&fixture, policy, slots, &path).stats();
            let replay = Replay::new(&[Trace::read(&path).unwrap()]).unwrap();
            // The record of popularity that pins experts in a replay is not there in residency.
            if policy != PolicyKind::Pinned {
                let found = replay.run(ReplayPolicy::Online(policy), slots);
                let counted = (found.all.hits, found.all.misses);
                assert_eq!(
                    counted,
                    (stats.hits, stats.misses),
                    "{policy}, {slots} slots"
                );
                assert_eq!(found.all, found.decode);
            }
            let all = stats.hits + stats.misses;
            let bound = replay.run(ReplayPolicy::Belady, slots).all;
            assert_eq!(bound.hits + bound.misses, all);
            assert!(
                bound.hits >= stats.hits,
                "{policy}, {slots} slots: {bound:?}"
            );
            let whole = replay.run(ReplayPolicy::Online(policy), 48);
            assert_eq!(whole.all.misses, whole.cold_misses, "memory for all");
        }
    }
}

/// Most hits that any choice of victims gives, by trying all.
fn most_hits(leases: &[Vec<u32>], memory: &[u32], slots: usize) -> u64 {
    let Some((lease, rest)) = leases.split_first() else {
        return 0;
    };
    let hits = lease.iter().filter(|key| memory.contains(key)).count() as u64;
    let others: Vec<u32> = memory
        .iter()
        .copied()
        .filter(|k| !lease.contains(k))
        .collect();
    let room = slots - lease.len();
    let mut best = 0;
    for kept in 0_u32..1 << others.len() {
        if kept.count_ones() as usize != room.min(others.len()) {
            continue;
        }
        let keeps = |at: &usize| kept >> at & 1 == 1;
        let mut memory: Vec<u32> = (0..others.len())
            .filter(keeps)
            .map(|at| others[at])
            .collect();
        memory.extend(lease);
        best = best.max(most_hits(rest, &memory, slots));
    }
    hits + best
}

#[test]
fn beladys_rule_is_the_best_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    for seed in 0..30 {
        let mut random = Random(seed);
        let header = TraceHeader {
            layers: vec![(0, 5), (1, 5)],
            top_k: 2,
            ..header(5)
        };
        let mut writer = TraceWriter::create(&path, &header).unwrap();
        let mut leases = Vec::new();
        for turn in 0..10 {
            let ids = random.distinct(5, 2);
            writer
                .record(Pass::Sparse, turn % 2, &ids, &[0.5, 0.5])
                .unwrap();
            leases.push(ids.iter().map(|id| id + 5 * (turn as u32 % 2)).collect());
        }
        drop(writer);
        let replay = Replay::new(&[Trace::read(&path).unwrap()]).unwrap();
        for slots in [3, 5, 6] {
            let found = replay.run(ReplayPolicy::Belady, slots).all.hits;
            assert_eq!(
                found,
                most_hits(&leases, &[], slots),
                "{seed}, {slots} slots"
            );
        }
    }
}

#[test]
fn a_prompt_does_not_empty_memory() {
    // Answers use six favourites of each layer; prompts use everything, twice over.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    let mut writer = TraceWriter::create(&path, &header(EXPERTS)).unwrap();
    let mut random = Random(3);
    for _ in 0..12 {
        for again in [true, false] {
            for layer in LAYERS {
                let ids: Vec<u32> = (0..EXPERTS).collect();
                writer
                    .record(Pass::Scan { again }, layer, &ids, &[0.25; 16])
                    .unwrap();
            }
        }
        for _ in 0..10 {
            for layer in LAYERS {
                writer
                    .record(Pass::Sparse, layer, &random.distinct(6, 4), &[0.25; 4])
                    .unwrap();
            }
        }
    }
    drop(writer);
    let replay = Replay::new(&[Trace::read(&path).unwrap()]).unwrap();
    for policy in [PolicyKind::Lru, PolicyKind::Frequency] {
        let found = replay.run(ReplayPolicy::Online(policy), 24);
        let rate = found.warm.hit_rate();
        assert!(rate > 0.9, "{policy}: {rate}");
    }
}

#[test]
fn traces_of_two_models_are_not_mixed() {
    let one = Trace {
        header: header(16),
        ..Trace::default()
    };
    let mut other = one.clone();
    other.header.identity = 1;
    other.header.model = "another".into();
    let error = Replay::new(&[one.clone(), other])
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("a model and another"), "{error}");
    assert!(Replay::new(&[one.clone(), one]).is_ok());
}

#[test]
fn figures_of_a_trace_that_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    let header = TraceHeader {
        layers: vec![(0, 10)],
        top_k: 1,
        ..header(10)
    };
    let mut writer = TraceWriter::create(&path, &header).unwrap();
    // Nine tokens of 0 1 2, and a prompt that uses expert 9 twice.
    for at in 0..9 {
        writer.record(Pass::Sparse, 0, &[at % 3], &[1.0]).unwrap();
    }
    writer
        .record(Pass::Sparse, 0, &[9, 9], &[1.0, 1.0])
        .unwrap();
    drop(writer);
    let figures = Trace::read(&path).unwrap().figures();
    assert_eq!(
        (figures.steps, figures.decode_steps, figures.tokens),
        (10, 9, 11)
    );
    assert_eq!((figures.uses, &figures.distinct[..]), (11, &[4][..]));
    let shares = figures.shares.map(|share| (share * 11.0).round() as u32);
    assert_eq!(shares, [3, 9, 11], "of the most used 1, 3 and 5 experts");
    assert_eq!(figures.reused, 0.0);
    assert_eq!(figures.distances, [3; 5]);
}
