//! What a run leaves behind: every result of every operation, and the state at the end.

use moeflux::graph::{BufferId, EntryOp, Graph, Op, Rows};

use crate::case::CaseStep;

/// What one operation wrote into one buffer for one session, over all steps.
#[derive(Clone, Debug, PartialEq)]
pub struct OpResult {
    /// The operation's number in the graph.
    pub op: usize,
    /// The operation's name.
    pub name: &'static str,
    /// The buffer's name.
    pub buffer: &'static str,
    /// Elements of a row.
    pub width: usize,
    /// Of a router: the chosen experts, `[rows, width]`; `values` are then their weights.
    pub ids: Option<Vec<u32>>,
    /// `[rows, width]`, the rows of all steps in order.
    pub values: Vec<f32>,
}

/// The results and the state of one session.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// In the order of operations, then of the buffers that each writes.
    pub results: Vec<OpResult>,
    /// Each piece of state after the last step, as
    /// [`Session::state_values`](moeflux::Session::state_values) gives it.
    pub states: Vec<Vec<f32>>,
}

/// A run of a case, by session.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// By the sessions' numbers.
    pub sessions: Vec<Timeline>,
}

impl Timeline {
    /// The results of operation `op`, by the buffer that it writes as its `index`th.
    pub(crate) fn result(
        &mut self,
        op: usize,
        index: usize,
        new: impl FnOnce() -> OpResult,
    ) -> &mut OpResult {
        let first = self.results.partition_point(|r| r.op < op);
        let at = first + index;
        if self.results.get(at).is_none_or(|r| r.op != op) {
            self.results.insert(at, new());
        }
        &mut self.results[at]
    }

    /// The same with only the rows `rows` of each result, and no state.
    #[must_use]
    pub fn rows(&self, rows: &[usize]) -> Timeline {
        let results = self.results.iter().map(|result| {
            let pick = |row: &usize| row * result.width..(row + 1) * result.width;
            OpResult {
                ids: result
                    .ids
                    .as_ref()
                    .map(|ids| rows.iter().flat_map(|r| &ids[pick(r)]).copied().collect()),
                values: rows
                    .iter()
                    .flat_map(|r| &result.values[pick(r)])
                    .copied()
                    .collect(),
                ..*result
            }
        });
        Timeline {
            results: results.collect(),
            states: Vec::new(),
        }
    }
}

/// The buffers of a graph that hold expert ids, not numbers.
pub(crate) fn id_buffers(graph: &Graph) -> Vec<BufferId> {
    let ids = |op: &Op| match op {
        Op::Router { ids, .. }
        | Op::GroupedRouter { ids, .. }
        | Op::TokenRouter { ids, .. }
        | Op::Entries(EntryOp::Choose { out: ids, .. })
        | Op::Entries(EntryOp::BlockAttention { chosen: ids, .. })
        | Op::RequestExperts { ids, .. }
        | Op::Experts { ids, .. } => Some(*ids),
        _ => None,
    };
    graph.ops.iter().filter_map(ids).collect()
}

impl Trace {
    /// An empty trace.
    pub(crate) fn of_sessions(sessions: usize) -> Trace {
        Trace {
            sessions: vec![Timeline::default(); sessions],
        }
    }

    /// Takes down what operation `at` wrote in `step`; `read` gives a buffer's values, of ids
    /// their bits.
    pub(crate) fn record(
        &mut self,
        graph: &Graph,
        step: &CaseStep,
        at: usize,
        read: &dyn Fn(BufferId) -> Vec<f32>,
    ) {
        let op = &graph.ops[at];
        let (ids, written) = match op {
            Op::Router { ids, weights, .. }
            | Op::GroupedRouter { ids, weights, .. }
            | Op::TokenRouter { ids, weights, .. } => (Some(*ids), vec![*weights]),
            _ => (None, op.writes()),
        };
        for (index, &buffer) in written.iter().enumerate() {
            let decl = &graph.buffers[buffer.index()];
            let (values, chosen) = (read(buffer), ids.map(read));
            let mut first = 0;
            for span in &step.spans {
                let rows = match decl.rows {
                    Rows::Tokens => span.tokens.len(),
                    Rows::Outputs => span.outputs(),
                };
                let result = self.sessions[span.session].result(at, index, || OpResult {
                    op: at,
                    name: op.name(),
                    buffer: decl.name,
                    width: decl.width,
                    ids: ids.map(|_| Vec::new()),
                    values: Vec::new(),
                });
                let mine = first..first + rows * decl.width;
                first = mine.end;
                if let (Some(all), Some(kept)) = (&chosen, &mut result.ids) {
                    kept.extend(all[mine.clone()].iter().map(|id| id.to_bits()));
                }
                result.values.extend_from_slice(&values[mine]);
            }
        }
    }
}
