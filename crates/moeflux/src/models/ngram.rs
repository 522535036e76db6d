//! Embeddings of n-grams, added to the residual of some layers: hashes of the last tokens name rows
//! of a table, which is read from disk.
//!
//! Reference: `transformers/models/qwen4_exp/modeling_qwen4_exp.py`.

use std::sync::Arc;

use moeflux_kernels::NgramRule;

use super::blueprint::{BlueprintBuilder, MatrixClass, VectorFold};
use super::gated_streams::GatedStreams;
use crate::Error;
use crate::config::Config;
use crate::graph::{BufferId, Op, StateDecl, StreamOp};

/// Rows of a hash's part of a table, at most.
const MOST_ROWS: usize = 1 << 30;
/// Hashes of all tables, tokens of an n-gram and taps of the convolution: more are a mistake.
const MOST_HASHES: usize = 4096;
const LONGEST: usize = 16;
const MOST_TAPS: usize = 64;
/// Between the seeds of two layers.
const SEED_STEP: u64 = 10007;
/// Constants of splitmix64.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
const MIX: [u64; 2] = [0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB];

/// The layers that have such embeddings.
pub(super) struct NgramLayers {
    /// By layer, in ascending order.
    layers: Vec<(usize, Table)>,
    /// Elements of a token's embeddings.
    width: usize,
    taps: usize,
    /// Positions between taps.
    apart: usize,
}

struct Table {
    rule: NgramRule,
    rows: usize,
}

impl NgramLayers {
    /// The fields; `is_recurrent` says of each layer whether it may have such embeddings.
    pub(super) fn read(
        c: &Config,
        is_recurrent: &[bool],
        hidden: usize,
        vocab: usize,
    ) -> Result<NgramLayers, Error> {
        const LAYERS: &str = "ple_layer_ids";
        let mut ids = c.indexes(LAYERS)?;
        ids.sort_unstable();
        ids.dedup();
        let none = NgramLayers {
            layers: Vec::new(),
            width: 0,
            taps: 0,
            apart: 0,
        };
        if ids.is_empty() {
            return Ok(none);
        }
        let wrong =
            |id: &&usize| id.checked_sub(1).and_then(|at| is_recurrent.get(at)) != Some(&true);
        if let Some(id) = ids.iter().find(wrong) {
            let problem = format!(
                "has {id}; it counts layers of linear attention from 1, of {} layers",
                is_recurrent.len()
            );
            return Err(c.error(LAYERS, problem));
        }
        let longest = small(c, "ngram_size", 3, LONGEST)?;
        let each = c.size_or("heads_per_ngram", 8)?;
        if longest < 2 {
            return Err(c.error("ngram_size", "is 1; n-grams have two tokens or more"));
        }
        let hashes = (longest - 1) * each;
        if hashes * ids.len() > MOST_HASHES {
            let all = hashes * ids.len();
            let problem = format!("is {each}, which makes {all} hashes; {MOST_HASHES} at most");
            return Err(c.error("heads_per_ngram", problem));
        }
        let width = c.size_or("ple_embed_dim", hidden)?;
        if !width.is_multiple_of(hashes) {
            let problem = format!("is {width}, not a multiple of {hashes} hashes");
            return Err(c.error("ple_embed_dim", problem));
        }
        let taps = small(c, "ple_conv_kernel_size", 4, MOST_TAPS)?;
        if taps < 2 {
            return Err(c.error("ple_conv_kernel_size", "is 1; it has two taps or more"));
        }
        let tables = Tables::read(c, (longest, hashes), vocab)?;
        let made = tables.make(ids.len());
        Ok(NgramLayers {
            layers: ids.iter().map(|id| id - 1).zip(made).collect(),
            width,
            taps,
            apart: longest,
        })
    }

    /// The streams with the embeddings of `layer` added, if it has any; the weights' names begin
    /// with `name`.
    pub(super) fn emit(
        &self,
        b: &mut BlueprintBuilder,
        (x, streams): (BufferId, &GatedStreams),
        layer: usize,
        name: &str,
    ) -> BufferId {
        let Some((_, table)) = self.layers.iter().find(|(own, _)| *own == layer) else {
            return x;
        };
        let (hidden, all) = (b.hidden, streams.streams * b.hidden);
        let cols = self.width / table.rule.rows();
        let rows = b.table(
            format!("{name}.ple_embedding.ngram_embedding"),
            table.rows,
            cols,
        );
        let embedded = b.graph.buffer("n-grams", self.width);
        b.graph.push(Op::NgramRows {
            table: rows,
            rule: table.rule.clone(),
            out: embedded,
        });
        let [keys, values] = b.project(
            embedded,
            MatrixClass::Dense,
            [
                (format!("{name}.key_proj"), all, "n-gram keys"),
                (format!("{name}.value_proj"), hidden, "n-gram values"),
            ],
        );
        let keys = streams.norm(b, keys, format!("{name}.norm_key.weight"));
        let queries = streams.norm(b, x, format!("{name}.norm_query.weight"));
        let gated = b.graph.buffer("n-grams gated", all);
        b.graph.push(Op::Streams(StreamOp::Gate {
            keys,
            queries,
            values,
            streams: streams.streams,
            out: gated,
        }));
        let normed = streams.norm(b, gated, format!("{name}.norm_conv.weight"));
        let convolved = self.convolved(b, normed, name);
        let added = b.add(gated, convolved, "n-grams out");
        b.add(x, added, "streams")
    }

    /// The convolution over every so many positions.
    fn convolved(&self, b: &mut BlueprintBuilder, x: BufferId, name: &str) -> BufferId {
        let channels = b.graph.width(x);
        let weight = b.vector(
            format!("{name}.conv1d.weight"),
            &[channels, 1, self.taps],
            VectorFold::DilateConv { apart: self.apart },
        );
        let state = b.state(StateDecl::Recurrent {
            len: (self.taps - 1) * self.apart * channels,
        });
        let out = b.graph.buffer("n-grams convolved", channels);
        b.graph.push(Op::Conv1dSilu {
            x,
            weight,
            state,
            channels,
            out,
        });
        out
    }
}

/// What hashes are made of.
struct Tables {
    /// Tokens of the longest n-gram, and hashes of a layer.
    longest: usize,
    hashes: usize,
    vocab: usize,
    end: u32,
    /// No part of a table has fewer rows.
    least_rows: u64,
    /// Tables have a multiple of these rows.
    multiple: u64,
    seed: u64,
}

impl Tables {
    fn read(c: &Config, (longest, hashes): (usize, usize), vocab: usize) -> Result<Tables, Error> {
        const SEED: &str = "seed";
        let seed = match c.number(SEED) {
            _ if !c.has(SEED) => 1234.0,
            Some(seed) if seed.fract() == 0.0 && (0.0..9e15).contains(&seed) => seed,
            _ => return Err(c.error(SEED, "is not a whole number from 0 to 9e15")),
        };
        let least_rows = match c.has("ngram_vocab_size_base") {
            true => c.size_up_to("ngram_vocab_size_base", MOST_ROWS)?,
            false => 20_000_000,
        };
        Ok(Tables {
            longest,
            hashes,
            vocab,
            end: end_of_text(c, vocab)?,
            least_rows: least_rows as u64,
            multiple: c.size_or("make_ngram_vocab_size_divisible_by", 128)? as u64,
            seed: seed as u64,
        })
    }

    /// The tables of all layers: each hash has as many rows as a prime of its own.
    fn make(&self, layers: usize) -> Vec<Table> {
        let mut prime = self.least_rows - 1;
        let table = |layer: usize| {
            let mut parts = Vec::with_capacity(self.hashes);
            let mut rows: u64 = 0;
            for _ in 0..self.hashes {
                prime = next_prime(prime);
                parts.push((rows, prime));
                rows += prime;
            }
            Table {
                rule: NgramRule {
                    factors: self.factors(layer as u64),
                    parts: parts.into(),
                    end: self.end,
                },
                rows: rows.next_multiple_of(self.multiple) as usize,
            }
        };
        (0..layers).map(table).collect()
    }

    /// Odd factors of tokens, so small that no product with a token overflows 63 bits.
    fn factors(&self, layer: u64) -> Arc<[u64]> {
        let half = (i64::MAX as u64 / self.vocab as u64 / 2).max(1);
        let seed = self.seed.wrapping_add(SEED_STEP * layer);
        let factor =
            |i: u64| 2 * (splitmix(seed.wrapping_add(GAMMA.wrapping_mul(i + 1))) % half) + 1;
        (0..self.longest as u64).map(factor).collect()
    }
}

/// A size with a default and a bound of its own.
fn small(c: &Config, field: &str, default: usize, most: usize) -> Result<usize, Error> {
    match c.has(field) {
        true => c.size_up_to(field, most),
        false => Ok(default),
    }
}

/// The token that ends a text: the first of those listed.
fn end_of_text(c: &Config, vocab: usize) -> Result<u32, Error> {
    const END: &str = "eos_token_id";
    let end = match c.number(END) {
        Some(end) if end.fract() == 0.0 && end >= 0.0 => Some(end as usize),
        Some(end) => return Err(c.error(END, format!("is {end}, not a token"))),
        None => c.indexes(END)?.first().copied(),
    };
    match end {
        Some(end) if end < vocab => Ok(end as u32),
        Some(end) => Err(c.error(END, format!("is {end}, beyond the {vocab} tokens"))),
        None => Err(c.error(END, "is not set; n-grams end with that token")),
    }
}

fn splitmix(value: u64) -> u64 {
    let value = value.wrapping_add(GAMMA);
    let value = (value ^ (value >> 30)).wrapping_mul(MIX[0]);
    let value = (value ^ (value >> 27)).wrapping_mul(MIX[1]);
    value ^ (value >> 31)
}

/// The first prime above `after`.
fn next_prime(after: u64) -> u64 {
    let mut number = after + 1;
    while !is_prime(number) {
        number += 1;
    }
    number
}

fn is_prime(number: u64) -> bool {
    if number < 4 || number.is_multiple_of(2) {
        return matches!(number, 2 | 3);
    }
    let mut divisors = (3..).step_by(2).take_while(|d| d * d <= number);
    divisors.all(|d| !number.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_follow_each_other() {
        let mut primes = vec![next_prime(0)];
        for _ in 0..9 {
            primes.push(next_prime(primes[primes.len() - 1]));
        }
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert_eq!(next_prime(19_999_999), FIRST_PRIMES[0]);
        assert_eq!(next_prime(FIRST_PRIMES[0]), FIRST_PRIMES[1]);
    }

    /// Computed by the reference implementation.
    const FIRST_PRIMES: [u64; 2] = [20_000_003, 20_000_023];

    #[test]
    fn tables_are_those_of_the_reference() {
        let tables = Tables {
            longest: 3,
            hashes: 16,
            vocab: 248_320,
            end: 1,
            least_rows: 20_000_000,
            multiple: 128,
            seed: 1234,
        };
        let made = tables.make(2);
        assert_eq!(*made[0].rule.factors, FACTORS[0]);
        assert_eq!(*made[1].rule.factors, FACTORS[1]);
        assert_eq!([made[0].rows, made[1].rows], ROWS);
        assert_eq!(made[0].rule.parts[1], (FIRST_PRIMES[0], FIRST_PRIMES[1]));
        assert_eq!(made[1].rule.parts[0], (0, 20_000_213));
    }

    /// Computed by the reference implementation.
    const FACTORS: [[u64; 3]; 2] = [
        [23_703_573_157_769, 20_109_073_645_365, 8_052_911_324_071],
        [3_352_040_966_061, 19_752_442_147_475, 10_742_103_100_073],
    ];
    const ROWS: [usize; 2] = [320_001_536, 320_005_120];
}
