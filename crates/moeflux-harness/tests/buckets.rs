//! Tokens in buckets by expert (compressed rows): experts ascending and none without tokens,
//! ranges that cover all assignments, token order kept within a bucket.

use moeflux::backend::{Buckets, RoutedTokens};
use moeflux_harness::Random;

/// Sorts and checks one choice.
fn check(ids: &[u32], weights: &[f32], top_k: usize) -> Buckets {
    let mut buckets = Buckets::default();
    buckets.sort(&RoutedTokens {
        x: &[],
        ids,
        weights,
        top_k,
    });
    let mut used: Vec<u32> = ids.to_vec();
    used.sort_unstable();
    used.dedup();
    assert_eq!(buckets.ids(), used, "ascending, and only those with tokens");
    let mut end = 0;
    for &expert in buckets.ids() {
        let (first, after) = buckets.range(expert).expect("it is in use");
        assert_eq!(first, end, "ranges follow one another");
        end = after;
        let tokens = &buckets.tokens()[first..after];
        assert!(
            tokens.is_sorted_by(|a, b| a < b),
            "order kept, no token twice"
        );
        let chose = |&t: &u32| ids[t as usize * top_k..][..top_k].contains(&expert);
        assert!(tokens.iter().all(chose));
    }
    assert_eq!(end, ids.len(), "every assignment is in a bucket");
    assert!((0..64).all(|e| used.contains(&e) == buckets.range(e).is_ok()));

    for (t, pair) in buckets.offsets().windows(2).enumerate() {
        let entries = &buckets.entries()[pair[0] as usize..pair[1] as usize];
        assert!(
            entries.is_sorted_by(|a, b| a.0 < b.0),
            "ascending expert id"
        );
        let mut found: Vec<u32> = Vec::new();
        for &(row, weight) in entries {
            assert_eq!(buckets.tokens()[row as usize] as usize, t);
            let expert = used.iter().find(|&&e| {
                let (first, after) = buckets.range(e).expect("in use");
                (first..after).contains(&(row as usize))
            });
            let expert = *expert.expect("the row is in a bucket");
            let slot = ids[t * top_k..][..top_k]
                .iter()
                .position(|&id| id == expert);
            assert_eq!(weight, weights[t * top_k + slot.expect("chosen")]);
            found.push(expert);
        }
        assert_eq!(found.len(), top_k);
    }
    buckets
}

/// The choice of the seed's permute-and-fuse case: two tokens to each of eight experts.
#[test]
fn the_seeds_choice() {
    let ids = [0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7, 0, 1];
    let weights: Vec<f32> = (0..16).map(|i| i as f32).collect();
    let buckets = check(&ids, &weights, 4);
    assert_eq!(buckets.ids(), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!((8..12).all(|e| buckets.range(e).is_err()));
    let tokens = [0, 3, 0, 3, 0, 1, 0, 1, 1, 2, 1, 2, 2, 3, 2, 3];
    assert_eq!(buckets.tokens(), tokens);
}

#[test]
fn random_choices() {
    for seed in 1..200 {
        let mut random = Random::new(seed);
        let (n, experts) = (random.within(0, 30), random.within(1, 40));
        let top_k = random.within(1, experts.min(8));
        let mut ids = Vec::new();
        for _ in 0..n {
            let mut order: Vec<u32> = (0..experts as u32).collect();
            for at in 0..top_k {
                order.swap(at, random.within(at, experts - 1));
            }
            ids.extend_from_slice(&order[..top_k]);
        }
        let weights = random.floats(ids.len(), 1.0);
        check(&ids, &weights, top_k);
    }
}
