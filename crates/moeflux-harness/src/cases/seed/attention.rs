//! Causal attention: five shapes, each in four arrangements of one computation. The seed's
//! variants differ in two ways, and so do these: how many heads of queries share one of keys
//! (fold 1 or 2, where the model's data has 8: its keys and values are repeated), and whether
//! queries are taken in tiles (here: steps) of 64. All must give the bits of the plain
//! arrangement, the model's own heads in one step.

use moeflux::graph::{BufferId, GraphBuilder, Op, StateDecl};
use moeflux::kernels::AttentionShape;

use super::{SeedCase, Twin};
use crate::{Case, Random};

const HEADS: usize = 16;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 256;
/// Queries in a tile.
const TILE: usize = 64;
/// Positions that are filled at once before the first query.
const FILL: usize = 512;
/// Products of queries and keys beyond which plain code takes too long.
const LARGE: usize = 1 << 20;
/// The same for all but the first arrangement.
const MEDIUM: usize = 1 << 17;

/// The arrangements by name: heads of queries to one of keys, and whether in tiles.
const VARIANTS: [(&str, usize, bool); 4] = [
    ("sdpa_va_", 1, false),
    ("sdpa_gqa2_dd_", 2, false),
    ("sdpa_gqa2_", 2, true),
    ("sdpa_vb_", 1, true),
];

/// The shapes by name: queries, position of the first, seed.
const SHAPES: [(&str, usize, usize, u64); 5] = [
    ("n1_single_block", 1, 63, 0x5DA0_F1A5_0000_0001),
    ("n1_multi_block", 1, 4999, 0x5DA0_F1A5_0000_0002),
    ("n4_tokenwise", 4, 4, 0x5DA0_F1A5_0000_0003),
    ("m512_square_causal", 512, 0, 0x5DA0_F1A5_0000_0004),
    ("m1500_deep_chunk", 1500, 4096, 0x5DA0_F1A5_0000_0005),
];

/// Queries over keys and values of all positions.
struct Data {
    n: usize,
    start: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// An arrangement of the computation.
struct Arrangement<'a> {
    /// Heads of queries that share one of keys.
    fold: usize,
    /// The queries, in the order of their positions, by steps; those left out are skipped.
    steps: Vec<&'a [usize]>,
}

/// The case of that name, if it is one of these.
pub(super) fn case(name: &str) -> Option<SeedCase> {
    let (prefix, fold, tiled) = VARIANTS.into_iter().find(|v| name.starts_with(v.0))?;
    let shape = name.strip_prefix(prefix)?.strip_prefix("causal_flash_")?;
    let (_, n, start, seed) = SHAPES.into_iter().find(|s| s.0 == shape)?;
    let data = Data::new(n, start, seed);
    let all: Vec<usize> = (0..n).collect();
    let chunks = all.chunks(if tiled { TILE } else { n });
    let steps = chunks.collect();
    let mut found = SeedCase::alone(data.case(name, &Arrangement { fold, steps }));
    let native = Arrangement {
        fold: HEADS / KV_HEADS,
        steps: vec![&all],
    };
    let native = data.case(
        &format!("sdpa {shape}, the model's heads in one step"),
        &native,
    );
    found = found.with_twin(native, n);
    let products = n * (start + n);
    if products > LARGE || (products > MEDIUM && (tiled || fold > 1)) {
        let rows = data.sample();
        let arrangement = Arrangement {
            fold: HEADS / KV_HEADS,
            steps: rows.chunks(1).collect(),
        };
        found.sample = Some(Twin {
            case: data.case(&format!("sdpa {shape}, some rows"), &arrangement),
            twin_rows: (0..rows.len()).collect(),
            rows,
        });
    }
    Some(found)
}

impl Data {
    /// Drawn in the order q, k, v.
    fn new(n: usize, start: usize, seed: u64) -> Data {
        let mut random = Random::new(seed);
        let kv_len = (start + n) * KV_HEADS * HEAD_DIM;
        Data {
            n,
            start,
            q: random.floats(n * HEADS * HEAD_DIM, 0.1),
            k: random.floats(kv_len, 0.1),
            v: random.floats(kv_len, 0.1),
        }
    }

    /// The first and last rows, those at the borders of blocks of 64 keys, and some between.
    fn sample(&self) -> Vec<usize> {
        let n = self.n;
        let mut rows = vec![0, 1, 62, 63, 64, 65, n / 3, n / 2 - 1, n - 29, n - 2, n - 1];
        rows.sort_unstable();
        rows
    }

    fn case(&self, name: &str, arrangement: &Arrangement<'_>) -> Case {
        let kv_heads = HEADS / arrangement.fold;
        let mut graph = GraphBuilder::default();
        let (q, out) = (
            graph.buffer("q", HEADS * HEAD_DIM),
            graph.buffer("out", HEADS * HEAD_DIM),
        );
        let (k, v) = (
            graph.buffer("k", kv_heads * HEAD_DIM),
            graph.buffer("v", kv_heads * HEAD_DIM),
        );
        let state = graph.state(StateDecl::key_value(kv_heads, HEAD_DIM));
        graph.push(Op::KvAppend { k, v, state });
        graph.push(Op::Attention {
            q,
            state,
            shape: AttentionShape {
                heads: HEADS,
                kv_heads,
                head_dim: HEAD_DIM,
                scale: 1.0 / (HEAD_DIM as f32).sqrt(),
                window: None,
            },
            sinks: None,
            out,
        });
        let mut case = Case::new(name, graph.finish(out));
        let mut end = 0;
        for rows in &arrangement.steps {
            let (first, len) = (self.start + rows[0], rows.len());
            case = self.fill(case, (k, v), kv_heads, end, first);
            let mut inputs = self.keys_and_values((k, v), kv_heads, first, first + len);
            let width = HEADS * HEAD_DIM;
            let queries = self.q[rows[0] * width..(rows[0] + len) * width].to_vec();
            inputs.push((q, queries));
            case = case.step(len, inputs);
            end = first + len;
        }
        self.fill(case, (k, v), kv_heads, end, self.start + self.n)
    }

    /// Adds steps that only append the keys and values of positions `first..end`.
    fn fill(
        &self,
        mut case: Case,
        buffers: (BufferId, BufferId),
        kv_heads: usize,
        first: usize,
        end: usize,
    ) -> Case {
        for first in (first..end).step_by(FILL) {
            let end = end.min(first + FILL);
            let inputs = self.keys_and_values(buffers, kv_heads, first, end);
            case = case.step_of(0..1, end - first, inputs);
        }
        case
    }

    /// Keys and values of positions `first..end`, each head repeated to make `kv_heads`.
    fn keys_and_values(
        &self,
        (k, v): (BufferId, BufferId),
        kv_heads: usize,
        first: usize,
        end: usize,
    ) -> Vec<(BufferId, Vec<f32>)> {
        let range = first * KV_HEADS * HEAD_DIM..end * KV_HEADS * HEAD_DIM;
        let repeated = |all: &[f32]| -> Vec<f32> {
            let heads = all[range.clone()].chunks_exact(HEAD_DIM);
            heads
                .flat_map(|h| std::iter::repeat_n(h, kv_heads / KV_HEADS))
                .flatten()
                .copied()
                .collect()
        };
        vec![(k, repeated(&self.k)), (v, repeated(&self.v))]
    }
}
