//! Runs a case on a backend.

use std::sync::Arc;

use moeflux::backend::{Backend, ExpertStage};
use moeflux::experts::{MemoryReader, ReaderChoice, Residency, ResidencyOptions};
use moeflux::formats::{Codec, Encoded};
use moeflux::weights::{ExpertPart, ExpertTable, MatrixPart, Weights};
use moeflux::{GraphRunner, Lookahead, Session, Span};

use crate::case::Case;
use crate::trace::Trace;
use crate::{HarnessError, compare};

/// Runs all steps of `case` on `backend`.
///
/// # Errors
/// Whatever the backend or residency says, or a case that names more than there is.
pub fn run(case: &Case, backend: Box<dyn Backend>) -> Result<Trace, HarnessError> {
    let weights = Weights::from_parts(&case.weights)?;
    let mut runner = GraphRunner::new(
        case.graph.clone(),
        weights,
        stage(case)?,
        backend,
        case.kv_type,
    );
    let mut sessions: Vec<Session> = (0..case.sessions()).map(|_| runner.session()).collect();
    let mut trace = Trace::of_sessions(sessions.len());
    for step in &case.steps {
        let mut free: Vec<Option<&mut Session>> = sessions.iter_mut().map(Some).collect();
        let mut spans = Vec::with_capacity(step.spans.len());
        for span in &step.spans {
            let session = free[span.session]
                .take()
                .ok_or_else(|| HarnessError::Case {
                    case: case.name.clone(),
                    problem: format!("a step has session {} twice", span.session),
                })?;
            spans.push(Span {
                session,
                tokens: &span.tokens,
                want: span.want,
                is_prompt: case.is_prompt,
            });
        }
        let inputs: Vec<_> = step.inputs.iter().map(|(b, v)| (*b, &v[..])).collect();
        runner.step(&mut spans, step.ops.clone(), &inputs, &mut |at, _, pool| {
            trace.record(&case.graph, step, at, &|buffer| pool.get(buffer).to_vec());
        })?;
    }
    for (timeline, session) in trace.sessions.iter_mut().zip(&sessions) {
        timeline.states = session.state_values()?;
    }
    Ok(trace)
}

/// Runs `case` on two backends and holds every buffer after every operation, and the state at the
/// end, to each other bit for bit. Gives the trace that both have.
///
/// # Errors
/// [`HarnessError::Difference`] at the first operation that differs; otherwise as [`run`].
pub fn same_on(
    case: &Case,
    found: Box<dyn Backend>,
    expected: Box<dyn Backend>,
) -> Result<Trace, HarnessError> {
    let expected = run(case, expected)?;
    compare::identical(&run(case, found)?, &expected)?;
    Ok(expected)
}

/// Runs `case` on two backends and holds every buffer after every operation, and the state at the
/// end, to each other within a relative L2 error of `tolerance` a row. Gives the largest error.
///
/// # Errors
/// As [`same_on`].
pub fn close_on(
    case: &Case,
    found: Box<dyn Backend>,
    expected: Box<dyn Backend>,
    tolerance: f64,
) -> Result<f64, HarnessError> {
    compare::close(&run(case, found)?, &run(case, expected)?, tolerance)
}

/// The case's experts, resident; one that nobody asks for where the case has none.
fn stage(case: &Case) -> Result<ExpertStage, HarnessError> {
    let mut experts = case.experts.clone();
    if experts.is_empty() {
        let one = || MatrixPart {
            codec: Codec::F32,
            rows: 1,
            cols: 1,
            encoded: Encoded {
                weights: vec![0; 4],
                ..Encoded::default()
            },
        };
        let (gate, up, down) = (one(), one(), one());
        experts.insert(0, vec![ExpertPart { gate, up, down }]);
    }
    let (table, file) = ExpertTable::from_parts(&experts)?;
    let slots = case.expert_slots.unwrap_or(table.catalog.expert_count());
    let arena_bytes = table.catalog.slot_bytes() * slots as u64;
    let options = ResidencyOptions {
        reader: ReaderChoice::Custom(Arc::new(MemoryReader::new(vec![file]))),
        read_threads: 2,
        ..ResidencyOptions::new(arena_bytes)
    };
    let residency = Residency::open(table.catalog, options)?;
    Ok(ExpertStage::new(residency, table.layouts, Lookahead::On))
}
