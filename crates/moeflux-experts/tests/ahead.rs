//! Reading ahead of use, requests before leases, and passes: what is guessed right is there, what
//! is guessed wrong costs nobody a slot, and a prompt does not throw out what answers need.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Fixture, Gate, Layout};
use moeflux_experts::{ExpertError, FaultPlan, FaultyReader, Pass, Reader, Residency};

/// Lets the reads end that were begun ahead of use.
fn finish_reads(residency: &mut Residency, layer: usize, resident: usize) {
    let start = Instant::now();
    while residency.stats().resident < resident {
        assert!(start.elapsed() < Duration::from_secs(20), "reads never end");
        residency.ahead(layer, []);
        std::thread::yield_now();
    }
}

#[test]
fn a_right_guess_is_a_hit() {
    let fixture = Fixture::small(16);
    let mut residency = fixture.open(fixture.options(12));
    residency.ahead(1, [3, 5, 99, 5]);
    finish_reads(&mut residency, 1, 2);
    let batches = fixture.take(&mut residency, 1, &[2, 3, 5]);
    assert_eq!(batches[0], [3, 5]);
    let stats = residency.stats();
    assert_eq!((stats.hits, stats.misses), (2, 1));
    let ahead = (stats.ahead_reads, stats.ahead_used, stats.ahead_wasted);
    assert_eq!(ahead, (2, 2, 0));
    assert_eq!(
        fixture.take(&mut residency, 1, &[5, 3]).len(),
        1,
        "they stay"
    );
}

#[test]
fn a_guess_given_up_half_read_and_then_asked_for_is_delivered() {
    let fixture = Fixture::new(4, 2, 6, 3_000_000..3_000_001, Layout::Packed);
    let gate = Gate::new(fixture.buffered());
    let mut residency = fixture.open_with(9, 1, Arc::clone(&gate) as Arc<dyn Reader>);
    gate.set(false);
    residency.ahead(3, [0]);
    gate.wait_for(1);
    // Its first piece is being read. Another layer's turn gives it up; then its own comes.
    residency.request(1, &[], &[]).unwrap();
    residency.request(3, &[0], &[1]).unwrap();
    gate.set(true);
    assert_eq!(fixture.take(&mut residency, 3, &[0]), [[0]]);
    fixture.take(&mut residency, 1, &[0, 1, 2]);
}

#[test]
fn what_arrives_while_guesses_are_made_is_delivered() {
    let fixture = Fixture::new(4, 2, 16, 4000..4001, Layout::Packed);
    for _ in 0..20 {
        let mut residency = fixture.open_with(12, 1, fixture.buffered());
        residency.request(1, &[0, 4, 9], &[1, 1, 1]).unwrap();
        residency.ahead(3, [2]);
        while residency.stats().reads < 4 {
            residency.ahead(3, []);
        }
        fixture.take(&mut residency, 1, &[0, 4, 9]);
        fixture.take(&mut residency, 3, &[2]);
        assert_eq!(residency.stats().reads, 4, "nothing was read twice");
    }
}

#[test]
fn what_cannot_be_read_is_an_error_though_guesses_are_made_meanwhile() {
    let fixture = Fixture::new(4, 2, 16, 4000..4001, Layout::Packed);
    let plan = FaultPlan {
        errors: 1.0,
        persistent: true,
        only: Some(fixture.range(1, 4)),
        ..FaultPlan::default()
    };
    for _ in 0..20 {
        let reader = FaultyReader::new(fixture.buffered(), plan.clone());
        let mut residency = fixture.open_with(12, 1, Arc::new(reader));
        residency.request(1, &[0, 4, 9], &[1, 1, 1]).unwrap();
        residency.ahead(3, [2]);
        // The fourth is read twice.
        while residency.stats().reads < 5 {
            residency.ahead(3, []);
        }
        let mut lease = residency.lease(1, &[0, 4, 9]).unwrap();
        let error = loop {
            match lease.next() {
                Ok(batch) => assert!(batch.is_some(), "an expert is missing without an error"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ExpertError::Read { .. }), "{error}");
        drop(lease);
        fixture.take(&mut residency, 1, &[0, 9]);
        fixture.take(&mut residency, 3, &[2]);
    }
}

#[test]
fn a_guess_on_its_way_is_not_read_twice() {
    let fixture = Fixture::small(16);
    let gate = Gate::new(fixture.buffered());
    let mut residency = fixture.open_with(12, 1, Arc::clone(&gate) as Arc<dyn Reader>);
    gate.set(false);
    residency.ahead(1, [0, 1, 2, 3]);
    gate.wait_for(1);
    // One thread: expert 0 is being read, the others wait. Those not asked for are dropped.
    residency.request(1, &[0, 3, 7], &[1, 1, 1]).unwrap();
    gate.set(true);
    let batches = fixture.take(&mut residency, 1, &[0, 3, 7]);
    assert_eq!(batches.concat().len(), 3);
    let stats = residency.stats();
    assert_eq!((stats.hits, stats.misses, stats.ahead_late), (0, 3, 2));
    assert_eq!(stats.reads, 3, "1 and 2 were never read");
    assert_eq!(stats.leases, 1, "the lease was the request's");
}

#[test]
fn guesses_take_a_third_of_the_slots_and_go_first_when_wrong() {
    let fixture = Fixture::new(3, 2, 32, 4000..4001, Layout::Packed);
    let mut residency = fixture.open(fixture.options(12));
    let hot: Vec<u32> = (0..8).collect();
    fixture.take(&mut residency, 1, &hot);
    residency.ahead(3, 0..32);
    finish_reads(&mut residency, 3, 12);
    assert_eq!(residency.stats().ahead_reads, 4);
    assert_eq!(residency.stats().evictions, 0, "free slots first");
    // The layer asks for others: four wrong guesses make room before anything that was used.
    fixture.take(&mut residency, 3, &[20, 21, 22, 23]);
    let stats = residency.stats();
    assert_eq!((stats.ahead_wasted, stats.evictions), (4, 0));
    let hits = stats.hits;
    fixture.take(&mut residency, 1, &hot);
    assert_eq!(residency.stats().hits, hits + 8);
}

#[test]
fn guesses_give_way_to_a_lease_that_needs_every_slot() {
    let fixture = Fixture::new(3, 2, 32, 4000..4001, Layout::Packed);
    for slots in [1, 2, 3, 5] {
        let mut residency = fixture.open(fixture.options(slots));
        residency.ahead(3, 0..32);
        let all: Vec<u32> = (0..32).collect();
        fixture.take(&mut residency, 1, &all);
        residency.ahead(3, 8..32);
        fixture.take(&mut residency, 3, &all);
        assert!(residency.stats().resident <= slots);
    }
}

#[test]
fn a_request_that_nobody_takes_up_is_dropped() {
    let fixture = Fixture::small(16);
    let mut residency = fixture.open(fixture.options(4));
    residency.request(1, &[0, 1], &[2, 3]).unwrap();
    residency.request(1, &[4, 5, 6, 7], &[]).unwrap();
    fixture.take(&mut residency, 1, &[8, 9, 10, 11]);
    residency.request(1, &[0, 1], &[]).unwrap();
    residency.clear();
    assert_eq!(residency.stats().resident, 0);
    fixture.take(&mut residency, 1, &[0, 1]);
    assert!(residency.request(1, &[3, 3], &[]).is_err());
    assert!(residency.request(2, &[3], &[]).is_err());
    fixture.take(&mut residency, 1, &[3, 2]);
}

#[test]
fn shrinking_and_forgetting_end_all_guesses() {
    let fixture = Fixture::small(16);
    let mut residency = fixture.open(fixture.options(12));
    residency.ahead(1, 0..16);
    residency.shrink_to(3 * residency.slot_bytes()).unwrap();
    assert_eq!(residency.slots(), 3);
    assert!(residency.stats().resident <= 3);
    residency.grow_to(u64::MAX);
    residency.ahead(1, 0..16);
    residency.clear();
    assert_eq!(residency.stats().resident, 0);
    fixture.take(&mut residency, 1, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(residency.stats().resident, 12);
}

/// Hits of three passes over four layers of eight, with room for half of the experts.
fn passes(again: bool) -> Vec<u64> {
    let fixture = Fixture::new(5, 4, 8, 4000..4001, Layout::Packed);
    let mut residency = fixture.open(fixture.options(16));
    let all: Vec<u32> = (0..8).collect();
    let mut hits = Vec::new();
    for _ in 0..3 {
        residency.begin_pass(if again {
            Pass::Scan { again: true }
        } else {
            Pass::Sparse
        });
        let before = residency.stats().hits;
        (0..4).for_each(|layer| {
            fixture.take(&mut residency, 2 * layer + 1, &all);
        });
        hits.push(residency.stats().hits - before);
    }
    hits
}

#[test]
fn repeated_passes_find_what_fits() {
    assert_eq!(
        passes(false),
        [0, 0, 0],
        "least recently used: always just gone"
    );
    let hits = passes(true);
    assert!(hits[0] == 0 && hits[1] >= 8 && hits[2] >= 8, "{hits:?}");
}

#[test]
fn a_prompt_leaves_what_answers_used_and_what_its_tokens_used_most() {
    let fixture = Fixture::new(5, 4, 8, 4000..4001, Layout::Packed);
    let mut residency = fixture.open(fixture.options(20));
    (0..4).for_each(|layer| {
        fixture.take(&mut residency, 2 * layer + 1, &[2, 6]);
    });
    residency.begin_pass(Pass::Scan { again: false });
    let all: Vec<u32> = (0..8).collect();
    for layer in 0..4 {
        let layer = 2 * layer + 1;
        residency
            .request(layer, &all, &[40, 1, 9, 1, 1, 1, 9, 1])
            .unwrap();
        fixture.take(&mut residency, layer, &all);
    }
    residency.begin_pass(Pass::Sparse);
    let before = residency.stats().hits;
    (0..4).for_each(|layer| {
        fixture.take(&mut residency, 2 * layer + 1, &[0, 2, 6]);
    });
    let hits = residency.stats().hits - before;
    assert_eq!(hits, 12, "8 from before, and the popular");
}
