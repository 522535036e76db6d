//! Textbook arithmetic in double precision: runs a case's graph from the definitions of its
//! operations alone. It shares no code with the kernels or their reference, rounds nothing
//! between operations, and knows neither lanes nor 8-bit activations.

mod dense;
mod entries;
mod experts;
mod gated;
mod grouped;
mod heads;
mod state;
mod streams;

use std::collections::BTreeMap;

use moeflux::Want;
use moeflux::formats::decode;
use moeflux::graph::{BufferId, Op, WeightId};
use moeflux::weights::{MatrixPart, WeightPart};

use crate::case::{Case, CaseStep};
use crate::trace::Trace;
use crate::{HarnessError, trace};
use experts::Expert;
use state::State;

/// Runs all steps of `case` exactly.
///
/// # Errors
/// [`HarnessError::Case`] where the case contradicts itself, [`HarnessError::Format`] where its
/// weights do not decode.
pub fn run(case: &Case) -> Result<Trace, HarnessError> {
    let mut oracle = Oracle::new(case)?;
    let mut trace = Trace::of_sessions(case.sessions());
    for step in &case.steps {
        oracle.begin(step);
        for at in step.ops.clone() {
            let op = &case.graph.ops[at];
            oracle.op(op)?;
            trace.record(&case.graph, step, at, &|buffer| oracle.values(buffer));
        }
        for span in &step.spans {
            oracle.lengths[span.session] += span.tokens.len();
            oracle.history[span.session].extend(&span.tokens);
        }
    }
    let sessions = trace.sessions.iter_mut().zip(&oracle.states);
    for ((timeline, states), &len) in sessions.zip(&oracle.lengths) {
        timeline.states = states.iter().map(|state| state.values(len)).collect();
    }
    Ok(trace)
}

/// A matrix in plain numbers.
struct Dense {
    cols: usize,
    /// `[rows, cols]`.
    values: Vec<f32>,
}

enum Weight {
    Matrix(Dense),
    Vector(Vec<f32>),
}

/// A run of tokens of one session in a step.
#[derive(Clone, Copy)]
struct Rows {
    session: usize,
    first: usize,
    len: usize,
    /// Position of the first token.
    start: usize,
}

struct Oracle<'a> {
    case: &'a Case,
    weights: Vec<Weight>,
    experts: BTreeMap<usize, Vec<Expert>>,
    /// Values by buffer, of this step.
    buffers: Vec<Vec<f64>>,
    /// Expert ids by buffer, of this step.
    ids: BTreeMap<usize, Vec<u32>>,
    /// By session, then by state.
    states: Vec<Vec<State>>,
    /// Tokens in each session: how many, and which.
    lengths: Vec<usize>,
    history: Vec<Vec<u32>>,
    rows: Vec<Rows>,
    tokens: Vec<u32>,
    outputs: Vec<usize>,
}

impl Dense {
    fn of(part: &MatrixPart) -> Result<Dense, HarnessError> {
        Ok(Dense {
            cols: part.cols,
            values: decode(part.codec, &part.encoded, part.rows, part.cols)?,
        })
    }
}

impl<'a> Oracle<'a> {
    fn new(case: &'a Case) -> Result<Oracle<'a>, HarnessError> {
        let weight = |part: &WeightPart| {
            Ok(match part {
                WeightPart::Matrix(matrix) => Weight::Matrix(Dense::of(matrix)?),
                WeightPart::Vector(values) => Weight::Vector(values.clone()),
                WeightPart::Table { cols, values } => Weight::Matrix(Dense {
                    cols: *cols,
                    values: values.clone(),
                }),
            })
        };
        let mut experts = BTreeMap::new();
        for (&layer, parts) in &case.experts {
            let decoded: Result<Vec<_>, _> = parts.iter().map(Expert::of).collect();
            experts.insert(layer, decoded?);
        }
        let sessions = case.sessions();
        let states: Vec<State> = case.graph.states.iter().map(State::new).collect();
        Ok(Oracle {
            case,
            weights: case
                .weights
                .iter()
                .map(weight)
                .collect::<Result<_, HarnessError>>()?,
            experts,
            buffers: vec![Vec::new(); case.graph.buffers.len()],
            ids: BTreeMap::new(),
            states: vec![states; sessions],
            lengths: vec![0; sessions],
            history: vec![Vec::new(); sessions],
            rows: Vec::new(),
            tokens: Vec::new(),
            outputs: Vec::new(),
        })
    }

    /// Takes in a step's tokens and inputs.
    fn begin(&mut self, step: &CaseStep) {
        (self.rows, self.tokens, self.outputs) = Default::default();
        for span in &step.spans {
            let (first, len) = (self.tokens.len(), span.tokens.len());
            self.rows.push(Rows {
                session: span.session,
                first,
                len,
                start: self.lengths[span.session],
            });
            self.tokens.extend(&span.tokens);
            let wanted = match span.want {
                Want::None => 0,
                Want::Last => 1,
                Want::All => len,
            };
            self.outputs.extend(first + len - wanted..first + len);
        }
        let named = trace::id_buffers(&self.case.graph);
        for (buffer, values) in &step.inputs {
            if named.contains(buffer) {
                let ids = values.iter().map(|v| v.to_bits()).collect();
                self.ids.insert(buffer.index(), ids);
            } else {
                self.buffers[buffer.index()] = values.iter().map(|&v| f64::from(v)).collect();
            }
        }
    }

    /// A buffer in f32; ids by their bits.
    fn values(&self, buffer: BufferId) -> Vec<f32> {
        match self.ids.get(&buffer.index()) {
            Some(ids) => ids.iter().map(|&id| f32::from_bits(id)).collect(),
            None => self.get(buffer).iter().map(|&v| v as f32).collect(),
        }
    }

    fn get(&self, buffer: BufferId) -> &[f64] {
        &self.buffers[buffer.index()]
    }

    fn set(&mut self, buffer: BufferId, values: Vec<f64>) {
        self.buffers[buffer.index()] = values;
    }

    fn matrix(&self, id: WeightId) -> Result<&Dense, HarnessError> {
        match self.weights.get(id.index()) {
            Some(Weight::Matrix(matrix)) => Ok(matrix),
            _ => Err(self.problem(format!("weight {} is not a matrix", id.index()))),
        }
    }

    fn vector(&self, id: WeightId) -> Result<Vec<f64>, HarnessError> {
        match self.weights.get(id.index()) {
            Some(Weight::Vector(values)) => Ok(values.iter().map(|&v| f64::from(v)).collect()),
            _ => Err(self.problem(format!("weight {} is not a vector", id.index()))),
        }
    }

    fn problem(&self, problem: String) -> HarnessError {
        let case = self.case.name.clone();
        HarnessError::Case { case, problem }
    }

    /// Runs one operation.
    fn op(&mut self, op: &Op) -> Result<(), HarnessError> {
        match op {
            Op::KvAppend { .. }
            | Op::Attention { .. }
            | Op::Entries(_)
            | Op::Conv1dSilu { .. }
            | Op::GatedDelta { .. } => self.stateful(op),
            Op::Router { .. } => self.router(op),
            Op::GroupedRouter { .. } => self.grouped_router(op),
            Op::TokenRouter { .. } => self.token_router(op),
            Op::Rearrange { .. } => self.rearrange(op),
            Op::HeadMatmul { .. } => self.head_matmul(op),
            // Nothing is computed from what they read ahead.
            Op::RequestExperts { .. } | Op::Lookahead { .. } => Ok(()),
            Op::Experts { .. } => self.routed_experts(op),
            _ => self.rowwise(op),
        }
    }

    fn wrong(&self, op: &Op) -> HarnessError {
        self.unknown(op.name())
    }

    fn unknown(&self, op: &str) -> HarnessError {
        self.problem(format!("the oracle does not know {op}"))
    }
}
