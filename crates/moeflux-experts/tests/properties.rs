//! Random leases over random catalogs, budgets, policies and readers, against simple models.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod common;

use std::time::Duration;

use common::{Fixture, Layout, LruModel, Random};
use moeflux_experts::{FaultPlan, Pass, PolicyKind, ReaderChoice, ReaderKind, Residency};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Setup {
    seed: u64,
    layout: Layout,
    layers: usize,
    experts: u32,
    slots: usize,
    threads: usize,
    policy: PolicyKind,
    reader: ReaderKind,
    faulty: bool,
    bytes: u64,
}

fn setup() -> impl Strategy<Value = Setup> {
    let layout = prop_oneof![Just(Layout::Packed), Just(Layout::Scattered)];
    let policy = prop::sample::select(PolicyKind::ALL.to_vec());
    let reader = prop_oneof![
        Just(ReaderKind::Auto),
        Just(ReaderKind::Uring),
        Just(ReaderKind::Direct),
        Just(ReaderKind::Buffered)
    ];
    // Mostly small segments; some that are read in several pieces.
    let bytes = prop_oneof![4 => Just(10_000u64), 1 => Just(2_500_000u64)];
    let shape = (1usize..4, 1u32..10).prop_flat_map(|(layers, experts)| {
        (Just(layers), Just(experts), 1..=layers * experts as usize)
    });
    (
        any::<u64>(),
        layout,
        shape,
        1usize..6,
        policy,
        reader,
        any::<bool>(),
        bytes,
    )
        .prop_map(
            |(seed, layout, (layers, experts, slots), threads, policy, reader, faulty, bytes)| {
                Setup {
                    seed,
                    layout,
                    layers,
                    experts,
                    slots,
                    threads,
                    policy,
                    reader,
                    faulty,
                    bytes,
                }
            },
        )
}

fn open(setup: &Setup, fixture: &Fixture) -> Residency {
    let mut options = fixture.options(setup.slots);
    options.policy = setup.policy;
    options.read_threads = setup.threads;
    options.reader = ReaderChoice::Kind(setup.reader);
    if setup.faulty {
        let plan = FaultPlan {
            seed: setup.seed,
            errors: 0.1,
            short_reads: 0.1,
            flipped_bits: 0.1,
            max_delay: Duration::from_micros(300),
            ..FaultPlan::default()
        };
        options.reader = ReaderChoice::Faulty(setup.reader, plan);
    }
    fixture.open(options)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Every byte is the file's, each expert comes once and hits come first, whatever the setup.
    #[test]
    fn leases_deliver_the_files_bytes(setup in setup()) {
        let bytes = 1..setup.bytes;
        let fixture =
            Fixture::new(setup.seed, setup.layers, setup.experts, bytes, setup.layout);
        let mut residency = open(&setup, &fixture);
        prop_assert_eq!(residency.slots(), setup.slots);
        let mut random = Random(setup.seed ^ 1);
        let mut model = LruModel::default();
        let mut exact = setup.policy == PolicyKind::Lru;
        let mut asked = 0;
        for turn in 0..24 {
            let layer = 2 * random.below(0..setup.layers as u64) as usize + 1;
            let count = random.below(0..u64::from(setup.experts) + 1) as usize;
            let experts = random.distinct(setup.experts, count);
            asked += experts.len() as u64;
            // Waves (more experts than slots) evict by arrival, which the model does not know.
            exact &= count <= residency.slots();
            if random.below(0..4) == 0 {
                // Neither guesses, passes nor requests change what is delivered.
                exact = false;
                let layer = 2 * random.below(0..setup.layers as u64) as usize + 1;
                residency.ahead(layer, random.distinct(setup.experts, setup.experts as usize / 2));
                let again = random.below(0..2) == 0;
                residency.begin_pass([Pass::Sparse, Pass::Scan { again }][turn % 2]);
                residency.request(layer, &experts, &[]).unwrap();
            }
            let hits_before = residency.stats().hits;
            let batches = fixture.take(&mut residency, layer, &experts);
            let hits = (residency.stats().hits - hits_before) as usize;
            if exact && hits > 0 {
                prop_assert_eq!(batches[0].len(), hits, "hits are the first batch");
            }
            if exact {
                let expected = model.lease(setup.slots, layer, &experts);
                prop_assert_eq!(hits, expected.len());
                prop_assert!(hits == 0 || batches[0].iter().all(|e| expected.contains(e)));
            }
            if turn == 18 {
                // A smaller arena, and a cold start: the bytes stay right.
                exact = false;
                let slot_bytes = residency.slot_bytes();
                residency.shrink_to(slot_bytes * setup.slots as u64 / 2).unwrap();
                prop_assert_eq!(residency.slots(), (setup.slots / 2).max(1));
                residency.clear();
                prop_assert_eq!(residency.stats().resident, 0);
            }
            if turn == 21 {
                residency.grow_to(u64::MAX);
                prop_assert_eq!(residency.slots(), setup.slots);
            }
        }
        let stats = residency.stats();
        prop_assert!(stats.hits + stats.misses >= asked);
        prop_assert!(stats.resident <= stats.slots);
        prop_assert!(setup.faulty || stats.retries == 0);
    }
}

#[test]
fn hits_equal_a_least_recently_used_cache() {
    let fixture = Fixture::new(3, 4, 32, 100..2000, Layout::Scattered);
    for slots in [8, 20, 64, 127, 128] {
        let mut options = fixture.options(slots);
        options.policy = PolicyKind::Lru;
        let mut residency = fixture.open(options);
        let (mut model, mut random) = (LruModel::default(), Random(slots as u64));
        for turn in 0..400 {
            // Skewed, as routers are: half of the draws come from a quarter of the experts.
            let all = if random.next().is_multiple_of(2) {
                8
            } else {
                32
            };
            let experts = random.distinct(all, 8);
            let layer = 2 * (turn % 4) + 1;
            fixture.take(&mut residency, layer, &experts);
            model.lease(slots, layer, &experts);
        }
        let stats = residency.stats();
        assert_eq!(
            (stats.hits, stats.misses),
            (model.hits, model.misses),
            "{slots} slots"
        );
        // Four layers of eight in turn: below 32 slots nothing is ever found again.
        assert_eq!(stats.hit_rate() > 0.0, slots >= 32);
    }
}

#[test]
fn frequency_keeps_a_favourite_that_recency_loses() {
    let fixture = Fixture::small(16);
    let hits = |policy| {
        let mut options = fixture.options(4);
        options.policy = policy;
        let mut residency = fixture.open(options);
        for turn in 0..200u32 {
            fixture.take(&mut residency, 1, &[0, 1]);
            // A scan through all the others between two uses of the favourites.
            (0..4).for_each(|step| {
                fixture.take(&mut residency, 1, &[2 + (turn * 4 + step) % 14]);
            });
        }
        residency.stats().hits
    };
    assert!(
        hits(PolicyKind::Frequency) > 380,
        "{}",
        hits(PolicyKind::Frequency)
    );
    assert!(hits(PolicyKind::Lru) < 20, "{}", hits(PolicyKind::Lru));
}
