//! A case: a graph, and all that it works on, as data.

use std::collections::BTreeMap;
use std::ops::Range;

use moeflux::Want;
use moeflux::formats::Codec;
use moeflux::graph::{BufferId, Graph, Op, WeightId};
use moeflux::kernels::KvType;
use moeflux::weights::{ExpertPart, WeightPart};

/// Relative L2 error allowed to each row of each result against exact arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// With activations in f32.
    pub f32: f64,
    /// With activations rounded to 8 bits where weights are integers; infinite where such errors
    /// grow without bound, and only bits are compared.
    pub int8: f64,
}

impl Default for Tolerance {
    fn default() -> Tolerance {
        Tolerance {
            f32: 1e-5,
            int8: 1e-2,
        }
    }
}

/// The tokens of one session in a step.
#[derive(Clone, Debug)]
pub struct CaseSpan {
    /// The session, by number; sessions exist from 0 to the largest number in use.
    pub session: usize,
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Which of them want outputs.
    pub want: Want,
}

/// One step of a case.
#[derive(Clone, Debug)]
pub struct CaseStep {
    /// The spans, in row order.
    pub spans: Vec<CaseSpan>,
    /// The operations to run; an empty range only moves the sessions on.
    pub ops: Range<usize>,
    /// Inputs of these operations, `[tokens, width]` each; a buffer of u32 is given by its bits.
    pub inputs: Vec<(BufferId, Vec<f32>)>,
}

/// A graph, and all that it works on.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, for people.
    pub name: String,
    /// The operations.
    pub graph: Graph,
    /// The weights, by [`WeightId`].
    pub weights: Vec<WeightPart>,
    /// Routed experts by layer.
    pub experts: BTreeMap<usize, Vec<ExpertPart>>,
    /// Experts that fit in memory at once; `None`: all.
    pub expert_slots: Option<usize>,
    /// What sessions keep keys and values as.
    pub kv_type: KvType,
    /// The steps, in order.
    pub steps: Vec<CaseStep>,
    /// Whether the tokens are run as those of a prompt.
    pub is_prompt: bool,
    /// How close results must be to exact arithmetic.
    pub tolerance: Tolerance,
}

impl CaseSpan {
    /// Rows of the step's outputs that this span has.
    pub(crate) fn outputs(&self) -> usize {
        match self.want {
            Want::None => 0,
            Want::Last => 1,
            Want::All => self.tokens.len(),
        }
    }
}

impl Case {
    /// A case without weights and steps.
    pub fn new(name: impl Into<String>, graph: Graph) -> Case {
        Case {
            name: name.into(),
            graph,
            weights: Vec::new(),
            experts: BTreeMap::new(),
            expert_slots: None,
            kv_type: KvType::default(),
            steps: Vec::new(),
            is_prompt: false,
            tolerance: Tolerance::default(),
        }
    }

    /// Adds a step of all operations for `tokens` new tokens of session 0.
    #[must_use]
    pub fn step(self, tokens: usize, inputs: Vec<(BufferId, Vec<f32>)>) -> Case {
        let ops = 0..self.graph.ops.len();
        self.step_of(ops, tokens, inputs)
    }

    /// Adds a step of some operations for `tokens` new tokens of session 0.
    #[must_use]
    pub fn step_of(
        mut self,
        ops: Range<usize>,
        tokens: usize,
        inputs: Vec<(BufferId, Vec<f32>)>,
    ) -> Case {
        let span = CaseSpan {
            session: 0,
            tokens: vec![0; tokens],
            want: Want::All,
        };
        self.steps.push(CaseStep {
            spans: vec![span],
            ops,
            inputs,
        });
        self
    }

    /// Number of sessions.
    pub fn sessions(&self) -> usize {
        let spans = self.steps.iter().flat_map(|s| &s.spans);
        spans.map(|s| s.session + 1).max().unwrap_or(0)
    }

    /// The case with keys and values kept as `kv_type`.
    #[must_use]
    pub fn keeping(mut self, kv_type: KvType) -> Case {
        self.kv_type = kv_type;
        self
    }

    /// Whether it matters what keys and values are kept as.
    pub fn has_keys(&self) -> bool {
        let keys = |op: &Op| matches!(op, Op::KvAppend { .. });
        self.graph.ops.iter().any(keys)
    }

    /// Whether rounding activations to 8 bits changes anything: some weights are integers.
    pub fn has_integer_weights(&self) -> bool {
        let integers = |codec: Codec| !matches!(codec, Codec::F32 | Codec::F16 | Codec::Bf16);
        let of_matmul = |id: &WeightId| match self.weights.get(id.index()) {
            Some(WeightPart::Matrix(m)) => integers(m.codec),
            _ => false,
        };
        self.graph.ops.iter().any(|op| match op {
            Op::Matmul { outputs, exact, .. } => {
                !exact && outputs.iter().any(|(weight, _)| of_matmul(weight))
            }
            Op::Experts { layer, .. } => self.experts.get(layer).is_some_and(|experts| {
                let parts = experts.iter().flat_map(|e| [&e.gate, &e.up, &e.down]);
                parts.into_iter().any(|m| integers(m.codec))
            }),
            _ => false,
        })
    }
}
