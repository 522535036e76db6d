//! The same case in another shape: cut into other steps, or run beside strangers. The results of
//! its sessions must be the same, bit for bit.

use moeflux::Want;
use moeflux::graph::{BufferId, Rows};

use crate::HarnessError;
use crate::case::{Case, CaseSpan, CaseStep};

impl Case {
    /// The case with every step cut into steps of `lengths` tokens, over and over.
    ///
    /// # Errors
    /// [`HarnessError::Case`] if a step has more than one session.
    pub fn in_steps(&self, lengths: &[usize]) -> Result<Case, HarnessError> {
        let mut cut = Case {
            name: format!("{} in steps of {lengths:?}", self.name),
            steps: Vec::new(),
            ..self.clone()
        };
        let mut lengths = lengths.iter().copied().cycle();
        for step in &self.steps {
            let [span] = &step.spans[..] else {
                return Err(self.problem("only steps of one session can be cut"));
            };
            let mut first = 0;
            while first < span.tokens.len() {
                let end = span.tokens.len().min(first + lengths.next().unwrap_or(1));
                let last = end == span.tokens.len();
                let mut piece = CaseStep {
                    spans: vec![CaseSpan {
                        session: span.session,
                        tokens: span.tokens[first..end].to_vec(),
                        want: span.want,
                    }],
                    ops: step.ops.clone(),
                    inputs: Vec::with_capacity(step.inputs.len()),
                };
                if span.want == Want::Last && !last {
                    piece.spans[0].want = Want::None;
                }
                for (buffer, values) in &step.inputs {
                    let width = self.width(*buffer)?;
                    let rows = values[first * width..end * width].to_vec();
                    piece.inputs.push((*buffer, rows));
                }
                cut.steps.push(piece);
                first = end;
            }
        }
        Ok(cut)
    }

    /// The case with two more sessions for each of its own, one before it and one behind it in
    /// every step, with other data: its rows backwards, and their first half. Session s becomes
    /// number 3 s + 1.
    ///
    /// # Errors
    /// [`HarnessError::Case`] if an input is not one of tokens.
    pub fn beside_strangers(&self) -> Result<Case, HarnessError> {
        let mut wide = Case {
            name: format!("{} beside strangers", self.name),
            ..self.clone()
        };
        for step in &mut wide.steps {
            let mut rows: Vec<usize> = Vec::new();
            let mut spans = Vec::with_capacity(3 * step.spans.len());
            let mut first = 0;
            for span in &step.spans {
                let own: Vec<usize> = (first..first + span.tokens.len()).collect();
                let backwards: Vec<usize> = own.iter().rev().copied().collect();
                let half = own[..own.len().div_ceil(2)].to_vec();
                for (number, chosen) in [backwards, own, half].into_iter().enumerate() {
                    spans.push(CaseSpan {
                        session: 3 * span.session + number,
                        tokens: chosen.iter().map(|&row| span.tokens[row - first]).collect(),
                        want: span.want,
                    });
                    rows.extend(chosen);
                }
                first += span.tokens.len();
            }
            step.spans = spans;
            for (buffer, values) in &mut step.inputs {
                let width = self.width(*buffer)?;
                let row = |&row: &usize| values[row * width..(row + 1) * width].iter().copied();
                *values = rows.iter().flat_map(row).collect();
            }
        }
        Ok(wide)
    }

    /// Elements of a row of an input.
    fn width(&self, buffer: BufferId) -> Result<usize, HarnessError> {
        match self.graph.buffers.get(buffer.index()) {
            Some(decl) if decl.rows == Rows::Tokens => Ok(decl.width),
            _ => Err(self.problem("an input has no row a token")),
        }
    }

    fn problem(&self, problem: &str) -> HarnessError {
        HarnessError::Case {
            case: self.name.clone(),
            problem: problem.to_owned(),
        }
    }
}
