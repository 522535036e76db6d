//! The sampler against transformers' logits processors, the laws of chance, and bad input.
//!
//! `fixtures/sampling/filters.json` is made by `tools/goldens/sampling/make_sampling.py`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use moeflux::sampling::{Sampler, SamplingError, SamplingParams};
use serde_json::Value;

fn sampler(params: SamplingParams) -> Sampler {
    Sampler::new(params).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_f64().unwrap())
        .collect()
}

fn params_of(parameters: &Value) -> SamplingParams {
    let number = |name: &str, absent: f32| parameters[name].as_f64().map_or(absent, |n| n as f32);
    SamplingParams {
        temperature: number("temperature", 1.0),
        top_k: number("top_k", 0.0) as usize,
        top_p: number("top_p", 1.0),
        min_p: number("min_p", 0.0),
        repetition_penalty: number("repetition_penalty", 1.0),
        ..SamplingParams::default()
    }
}

#[test]
fn filters_keep_what_transformers_keeps() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sampling/filters.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 11);
    for case in cases {
        let name = &case["name"];
        let logits: Vec<f32> = numbers(&case["logits"]).iter().map(|n| *n as f32).collect();
        let history: Vec<u32> = numbers(&case["history"])
            .iter()
            .map(|n| *n as u32)
            .collect();
        let mut sampler = sampler(params_of(&case["parameters"]));
        let mut found = sampler.distribution(&logits, &history, 0).unwrap();
        found.sort_by_key(|(token, _)| *token);
        let kept: Vec<f64> = found.iter().map(|(token, _)| f64::from(*token)).collect();
        assert_eq!(kept, numbers(&case["kept"]), "{name}");
        for ((token, found), expected) in found.iter().zip(numbers(&case["probabilities"])) {
            let error = (found - expected).abs();
            assert!(
                error < 2e-6 * expected + 1e-9,
                "{name}, token {token}: {found} {expected}"
            );
        }
    }
}

#[test]
fn greedy_takes_the_lowest_of_the_largest() {
    let logits = [0.5, 2.0, -1.0, 2.0, 1.9];
    let mut greedy = sampler(SamplingParams::default());
    assert_eq!(greedy.sample(&logits, &[], 9).unwrap(), 1);
    let mut penalized = sampler(SamplingParams {
        repetition_penalty: 1.5,
        ..SamplingParams::default()
    });
    assert_eq!(penalized.sample(&logits, &[1, 1], 9).unwrap(), 3);
    let extreme = [f32::MIN, f32::MIN];
    assert_eq!(greedy.sample(&extreme, &[], 0).unwrap(), 0);
}

#[test]
fn presence_and_frequency_count_the_answer_alone() {
    let logits = [1.0, 1.0, 1.0, 1.0];
    let params = SamplingParams {
        temperature: 1.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        ..SamplingParams::default()
    };
    let mut sampler = sampler(params);
    sampler.set_prompt_tokens(2);
    // Token 3 is in the prompt only, 0 once in the answer, 1 three times; 9 is no token.
    let found = sampler
        .distribution(&logits, &[3, 3, 0, 1, 1, 1, 9], 7)
        .unwrap();
    let weights = [(-0.75_f64).exp(), (-1.25_f64).exp(), 1.0, 1.0];
    let total: f64 = weights.iter().sum();
    for (token, probability) in found {
        let expected = weights[token as usize] / total;
        assert!(
            (probability - expected).abs() < 1e-7,
            "{token}: {probability} {expected}"
        );
    }
    // The counts of one call do not leak into the next.
    let found = sampler.distribution(&logits, &[], 0).unwrap();
    assert!(
        found
            .iter()
            .all(|(_, probability)| (probability - 0.25).abs() < 1e-12)
    );
}

#[test]
fn draws_follow_the_distribution() {
    let logits: Vec<f32> = (0..50)
        .map(|token| ((token * 37) % 50) as f32 * 0.08)
        .collect();
    for params in [
        SamplingParams {
            temperature: 1.0,
            seed: 1,
            ..SamplingParams::default()
        },
        SamplingParams {
            temperature: 0.7,
            top_k: 20,
            seed: 2,
            ..SamplingParams::default()
        },
        SamplingParams {
            temperature: 1.5,
            top_p: 0.8,
            min_p: 0.1,
            seed: 3,
            ..Default::default()
        },
    ] {
        const DRAWS: usize = 40_000;
        let mut sampler = sampler(params.clone());
        let expected = sampler.distribution(&logits, &[], 0).unwrap();
        let mut counts = [0_usize; 50];
        for position in 0..DRAWS {
            counts[sampler.sample(&logits, &[], position).unwrap() as usize] += 1;
        }
        let chi: f64 = expected
            .iter()
            .map(|(token, probability)| {
                let mean = probability * DRAWS as f64;
                (counts[*token as usize] as f64 - mean).powi(2) / mean
            })
            .sum();
        let inside: usize = expected
            .iter()
            .map(|(token, _)| counts[*token as usize])
            .sum();
        assert_eq!(inside, DRAWS, "a token outside the filters was drawn");
        // Mean plus four standard deviations of chi-square.
        let freedom = (expected.len() - 1) as f64;
        assert!(
            chi < freedom + 4.0 * (2.0 * freedom).sqrt(),
            "{params:?}: chi-square {chi}"
        );
    }
}

#[test]
fn a_draw_depends_on_seed_and_position_alone() {
    let logits: Vec<f32> = (0..1000)
        .map(|token| ((token * 7919) % 1000) as f32 * 0.005)
        .collect();
    let params = SamplingParams {
        temperature: 1.0,
        seed: 5,
        ..SamplingParams::default()
    };
    let mut first = sampler(params.clone());
    let forward: Vec<u32> = (0..50)
        .map(|p| first.sample(&logits, &[], p).unwrap())
        .collect();
    let mut second = sampler(params.clone());
    let backward: Vec<u32> = (0..50)
        .rev()
        .map(|p| second.sample(&logits, &[], p).unwrap())
        .collect();
    assert!(forward.iter().eq(backward.iter().rev()));
    let mut other = sampler(SamplingParams { seed: 6, ..params });
    let different: Vec<u32> = (0..50)
        .map(|p| other.sample(&logits, &[], p).unwrap())
        .collect();
    assert_ne!(forward, different);
}

#[test]
fn top_p_sorts_far_enough_on_a_flat_distribution() {
    let logits = vec![0.0; 10_000];
    let params = SamplingParams {
        temperature: 1.0,
        top_p: 0.5,
        ..SamplingParams::default()
    };
    let kept = sampler(params).distribution(&logits, &[], 0).unwrap();
    assert_eq!(kept.len(), 5000);
    assert!(
        kept.iter()
            .enumerate()
            .all(|(index, (token, _))| index as u32 == *token)
    );
}

#[test]
fn extreme_values_stay_finite() {
    for temperature in [f32::MIN_POSITIVE, 1e-30, 1.0, 100.0] {
        for logits in [[f32::MAX, f32::MIN, 0.0], [f32::MIN; 3], [f32::MAX; 3]] {
            let params = SamplingParams {
                temperature,
                top_p: 0.9,
                min_p: 0.1,
                repetition_penalty: 0.001,
                presence_penalty: -100.0,
                frequency_penalty: -100.0,
                ..SamplingParams::default()
            };
            let kept = sampler(params)
                .distribution(&logits, &[0, 1, 2, 2], 4)
                .unwrap();
            let total: f64 = kept.iter().map(|(_, probability)| probability).sum();
            assert!(
                (total - 1.0).abs() < 1e-9,
                "{temperature} {logits:?}: {kept:?}"
            );
        }
    }
}

#[test]
fn bad_parameters_are_named_with_their_range() {
    let base = SamplingParams::default;
    let nan = f32::NAN;
    for (params, name, range) in [
        (
            SamplingParams {
                temperature: -0.1,
                ..base()
            },
            "temperature",
            "between 0 and 100",
        ),
        (
            SamplingParams {
                temperature: nan,
                ..base()
            },
            "temperature",
            "between 0 and 100",
        ),
        (
            SamplingParams {
                temperature: f32::INFINITY,
                ..base()
            },
            "temperature",
            "0 and 100",
        ),
        (
            SamplingParams {
                top_p: 0.0,
                ..base()
            },
            "top_p",
            "above 0 and at most 1",
        ),
        (
            SamplingParams {
                top_p: 1.1,
                ..base()
            },
            "top_p",
            "above 0 and at most 1",
        ),
        (
            SamplingParams {
                top_p: nan,
                ..base()
            },
            "top_p",
            "above 0 and at most 1",
        ),
        (
            SamplingParams {
                min_p: -0.1,
                ..base()
            },
            "min_p",
            "between 0 and 1",
        ),
        (
            SamplingParams {
                min_p: nan,
                ..base()
            },
            "min_p",
            "between 0 and 1",
        ),
        (
            SamplingParams {
                repetition_penalty: 0.0,
                ..base()
            },
            "repetition_penalty",
            "above 0",
        ),
        (
            SamplingParams {
                repetition_penalty: nan,
                ..base()
            },
            "repetition_penalty",
            "above 0",
        ),
        (
            SamplingParams {
                presence_penalty: nan,
                ..base()
            },
            "presence_penalty",
            "-100 and 100",
        ),
        (
            SamplingParams {
                frequency_penalty: 101.0,
                ..base()
            },
            "frequency_penalty",
            "-100",
        ),
    ] {
        let error = Sampler::new(params).unwrap_err();
        assert!(matches!(error, SamplingError::OutOfRange { parameter, .. } if parameter == name));
        assert!(error.to_string().contains(range), "{error}");
    }
}

#[test]
fn bad_logits_are_errors() {
    let mut greedy = sampler(SamplingParams::default());
    assert_eq!(
        greedy.sample(&[], &[], 3),
        Err(SamplingError::Empty { position: 3 })
    );
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = greedy.sample(&[0.0, bad], &[], 3).unwrap_err();
        assert!(
            matches!(
                error,
                SamplingError::NonFinite {
                    token: 1,
                    position: 3,
                    ..
                }
            ),
            "{error}"
        );
    }
}
