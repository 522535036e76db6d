//! Who writes and who reads each buffer of a graph.

use moeflux::graph::{BufferId, Graph, Op};

pub(super) struct Uses<'a> {
    pub graph: &'a Graph,
    writer: Vec<Option<usize>>,
    readers: Vec<Vec<usize>>,
}

impl<'a> Uses<'a> {
    pub fn new(graph: &'a Graph) -> Uses<'a> {
        let count = graph.buffers.len();
        let (mut writer, mut readers) = (vec![None; count], vec![Vec::new(); count]);
        for (at, op) in graph.ops.iter().enumerate() {
            // A guess is not part of a result.
            if matches!(op, Op::Lookahead { .. }) {
                continue;
            }
            for id in op.reads() {
                readers[id.index()].push(at);
            }
            for id in op.writes() {
                writer[id.index()] = Some(at);
            }
        }
        Uses {
            graph,
            writer,
            readers,
        }
    }

    pub fn width(&self, id: BufferId) -> usize {
        self.graph.buffers[id.index()].width
    }

    /// The operation that writes a buffer, and its place.
    pub fn writer(&self, id: BufferId) -> Option<(usize, &'a Op)> {
        self.writer[id.index()].map(|at| (at, &self.graph.ops[at]))
    }

    pub fn readers(&self, id: BufferId) -> &[usize] {
        &self.readers[id.index()]
    }

    /// The only operation that reads a buffer, and its place.
    pub fn reader(&self, id: BufferId) -> Option<(usize, &'a Op)> {
        match self.readers(id) {
            [at] if id != self.graph.logits => Some((*at, &self.graph.ops[*at])),
            _ => None,
        }
    }

    /// Whether a buffer is there before the operation at `place` runs.
    pub fn is_before(&self, id: BufferId, place: usize) -> bool {
        self.writer[id.index()].is_none_or(|at| at < place)
    }
}
