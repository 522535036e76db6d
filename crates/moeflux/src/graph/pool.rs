//! Memory for a graph's buffers: those whose lifetimes do not meet share a slot.

use super::{BufferId, Graph, Rows};
use crate::Error;

/// Storage for the buffers of one graph.
///
/// A buffer lives from the op that writes it to the last op that reads it; slots are handed out
/// greedily in that order, the smallest sufficient one first. A buffer that is read before any op
/// writes it is an input: it lives from the start and is filled by [`BufferPool::upload`].
pub struct BufferPool {
    /// Slot of each buffer.
    assigned: Vec<usize>,
    widths: Vec<usize>,
    rows: Vec<Rows>,
    plan: Vec<SlotPlan>,
    slots: Vec<Vec<f32>>,
    n_tokens: usize,
    n_outputs: usize,
}

/// Which slot each buffer has, and how wide each slot is.
struct Plan {
    assigned: Vec<usize>,
    slots: Vec<SlotPlan>,
}

struct SlotPlan {
    width: usize,
    rows: Rows,
}

/// The buffers that are read before any op writes them.
fn inputs(graph: &Graph) -> Vec<BufferId> {
    let mut written = vec![false; graph.buffers.len()];
    let mut inputs = Vec::new();
    for op in &graph.ops {
        for buffer in op.reads() {
            if !written[buffer.index()] {
                inputs.push(buffer);
            }
        }
        for buffer in op.reads().into_iter().chain(op.writes()) {
            written[buffer.index()] = true;
        }
    }
    inputs.sort_unstable();
    inputs.dedup();
    inputs
}

fn plan(graph: &Graph) -> Plan {
    let n = graph.buffers.len();
    let mut last_use = vec![0; n];
    for (index, op) in graph.ops.iter().enumerate() {
        for buffer in op.reads().into_iter().chain(op.writes()) {
            last_use[buffer.index()] = index;
        }
    }
    last_use[graph.logits.index()] = usize::MAX;
    let mut assigned = vec![usize::MAX; n];
    let mut slots: Vec<SlotPlan> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    for buffer in inputs(graph) {
        let decl = &graph.buffers[buffer.index()];
        assigned[buffer.index()] = slots.len();
        slots.push(SlotPlan {
            width: decl.width,
            rows: decl.rows,
        });
    }
    for (index, op) in graph.ops.iter().enumerate() {
        for buffer in op.writes() {
            if assigned[buffer.index()] != usize::MAX {
                continue;
            }
            let decl = &graph.buffers[buffer.index()];
            let width = decl.width;
            let best = free
                .iter()
                .enumerate()
                .filter(|&(_, &slot)| slots[slot].rows == decl.rows)
                .min_by_key(|&(_, &slot)| {
                    let have = slots[slot].width;
                    if have >= width {
                        (0, have - width)
                    } else {
                        (1, width - have)
                    }
                })
                .map(|(at, _)| at);
            let slot = match best {
                Some(at) => free.swap_remove(at),
                None => {
                    slots.push(SlotPlan {
                        width: 0,
                        rows: decl.rows,
                    });
                    slots.len() - 1
                }
            };
            slots[slot].width = slots[slot].width.max(width);
            assigned[buffer.index()] = slot;
        }
        // Freed only after the op, so that no op writes where it reads.
        let mut ended: Vec<BufferId> = op.reads().into_iter().chain(op.writes()).collect();
        ended.sort_unstable();
        ended.dedup();
        for buffer in ended {
            if last_use[buffer.index()] == index && assigned[buffer.index()] != usize::MAX {
                free.push(assigned[buffer.index()]);
            }
        }
    }
    Plan { assigned, slots }
}

impl BufferPool {
    /// Bytes of one row of all slots with rows of that kind.
    pub fn row_bytes(graph: &Graph, rows: Rows) -> u64 {
        let slots = plan(graph).slots;
        slots
            .iter()
            .filter(|s| s.rows == rows)
            .map(|s| s.width as u64 * 4)
            .sum()
    }

    /// Allocates slots for steps of up to `max_tokens` tokens and `max_outputs` rows of logits.
    pub fn new(graph: &Graph, max_tokens: usize, max_outputs: usize) -> BufferPool {
        let Plan { assigned, slots } = plan(graph);
        let mut pool = BufferPool {
            assigned,
            widths: graph.buffers.iter().map(|b| b.width).collect(),
            rows: graph.buffers.iter().map(|b| b.rows).collect(),
            plan: slots,
            slots: Vec::new(),
            n_tokens: 0,
            n_outputs: 0,
        };
        pool.fit(max_tokens, max_outputs);
        pool
    }

    /// Makes the slots fit steps of up to `max_tokens` tokens and `max_outputs` rows of logits;
    /// what they held is lost.
    pub fn fit(&mut self, max_tokens: usize, max_outputs: usize) {
        // The old ones go first, so that both are never there together.
        self.slots.clear();
        let len = |slot: &SlotPlan| match slot.rows {
            Rows::Tokens => slot.width * max_tokens,
            Rows::Outputs => slot.width * max_outputs,
        };
        self.slots
            .extend(self.plan.iter().map(|s| vec![0.0; len(s)]));
    }

    /// Starts a step of `n_tokens` tokens, `n_outputs` of which want logits; both within what
    /// the pool was made for.
    pub fn begin(&mut self, n_tokens: usize, n_outputs: usize) {
        self.n_tokens = n_tokens;
        self.n_outputs = n_outputs;
    }

    /// The slot that a buffer shares with others whose lifetimes do not meet its own.
    pub fn slot(&self, buffer: BufferId) -> usize {
        self.assigned[buffer.index()]
    }

    /// What a buffer has rows for.
    pub fn row_kind(&self, buffer: BufferId) -> Rows {
        self.rows[buffer.index()]
    }

    /// Rows of a buffer in this step.
    pub fn rows(&self, buffer: BufferId) -> usize {
        match self.rows[buffer.index()] {
            Rows::Tokens => self.n_tokens,
            Rows::Outputs => self.n_outputs,
        }
    }

    /// Elements in a row of a buffer.
    pub fn width(&self, buffer: BufferId) -> usize {
        self.widths[buffer.index()]
    }

    /// Elements of a buffer in this step.
    pub fn len(&self, buffer: BufferId) -> usize {
        self.rows(buffer) * self.widths[buffer.index()]
    }

    /// The contents of a buffer in this step, `[rows, width]`.
    pub fn get(&self, buffer: BufferId) -> &[f32] {
        let len = self.len(buffer);
        self.slots[self.assigned[buffer.index()]]
            .get(..len)
            .unwrap_or(&[])
    }

    /// A buffer of u32, `[rows, width]`.
    pub fn get_u32(&self, buffer: BufferId) -> &[u32] {
        bytemuck::cast_slice(self.get(buffer))
    }

    /// Fills an input of the step, `[rows, width]`.
    ///
    /// # Errors
    /// [`Error::Internal`] if `values` has another length, or no op reads or writes the buffer.
    pub fn upload(&mut self, buffer: BufferId, values: &[f32]) -> Result<(), Error> {
        let (len, slot) = (self.len(buffer), self.assigned[buffer.index()]);
        match self.slots.get_mut(slot).and_then(|s| s.get_mut(..len)) {
            Some(place) if values.len() == len => place.copy_from_slice(values),
            _ => {
                let given = values.len();
                let problem = format!("buffer {buffer:?} takes {len} elements, not {given}");
                return Err(Error::Internal(problem));
            }
        }
        Ok(())
    }

    /// Lends `out`'s memory to `f` next to the pool's other buffers.
    pub fn write<T>(
        &mut self,
        out: BufferId,
        f: impl FnOnce(&BufferPool, &mut [f32]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut taken = self.take(out);
        let len = self.len(out);
        let result = f(self, &mut taken[..len]);
        self.put(out, taken);
        result
    }

    /// Takes a buffer's memory out, to be written beside others; give it back with `put`.
    pub fn take(&mut self, buffer: BufferId) -> Vec<f32> {
        std::mem::take(&mut self.slots[self.assigned[buffer.index()]])
    }

    /// Gives back what [`BufferPool::take`] took.
    pub fn put(&mut self, buffer: BufferId, memory: Vec<f32>) {
        self.slots[self.assigned[buffer.index()]] = memory;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{GraphBuilder, Op};

    /// A chain x0 -> x1 -> ... of adds needs two slots, and one more for a value kept throughout.
    #[test]
    fn buffers_with_disjoint_lifetimes_share_slots() {
        let mut g = GraphBuilder::default();
        let kept = g.buffer("kept", 8);
        g.push(Op::Add {
            a: kept,
            b: kept,
            out: kept,
        });
        let mut x = kept;
        for _ in 0..10 {
            let next = g.buffer("x", 8);
            g.push(Op::Add {
                a: x,
                b: kept,
                out: next,
            });
            x = next;
        }
        let graph = g.finish(x);
        let plan = plan(&graph);
        assert_eq!(plan.slots.len(), 3);
        for op in &graph.ops[1..] {
            for read in op.reads() {
                for written in op.writes() {
                    assert_ne!(plan.assigned[read.index()], plan.assigned[written.index()]);
                }
            }
        }
    }
}
