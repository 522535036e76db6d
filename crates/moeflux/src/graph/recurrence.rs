//! Which operations carry recurrent state, and what it takes to run them again for fewer tokens.

use super::{BufferId, EntryOp, Graph, Op};

/// An operation with recurrent state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recurrence {
    /// Its place in [`Graph::ops`].
    pub op: usize,
    /// What it reads, but for what running the recurrences before it gives anyhow.
    pub inputs: Vec<BufferId>,
}

impl Graph {
    /// The operations with recurrent state, in order. With their inputs of a step kept, running
    /// them alone for the step's first tokens gives the state after those.
    pub fn recurrences(&self) -> Vec<Recurrence> {
        let mut found = Vec::new();
        // Buffers as the recurrences so far leave them.
        let mut given: Vec<BufferId> = Vec::new();
        for (index, op) in self.ops.iter().enumerate() {
            let writes = op.writes();
            if !is_recurrent(op) {
                given.retain(|buffer| !writes.contains(buffer));
                continue;
            }
            let mut inputs = op.reads();
            inputs.retain(|buffer| !given.contains(buffer));
            found.push(Recurrence { op: index, inputs });
            given.extend(writes);
        }
        found
    }
}

fn is_recurrent(op: &Op) -> bool {
    matches!(
        op,
        Op::Conv1dSilu { .. } | Op::GatedDelta { .. } | Op::Entries(EntryOp::Compress { .. })
    )
}
