//! The share of experts that are in memory once it is warm.

use std::path::Path;

use moeflux::ModelInfo;
use moeflux::experts::{PolicyKind, Replay, ReplayPolicy, Trace};

use crate::failure::Failure;

/// What is assumed of routing.
pub enum HitModel {
    /// Every expert is used as often as any other: the worst case.
    Uniform,
    /// As recorded, under the policy that would run.
    Trace {
        replay: Replay,
        policy: PolicyKind,
        name: String,
    },
}

impl HitModel {
    /// Routing as recorded in `file` by a run of the model.
    ///
    /// # Errors
    /// A file that is no trace, that is of another model, or that holds no decoding.
    pub fn of_trace(
        file: &Path,
        info: &ModelInfo,
        policy: PolicyKind,
    ) -> Result<HitModel, Failure> {
        let problem = |problem: &str| Failure::Input {
            path: file.to_owned(),
            problem: format!("{problem}; record one with moeflux run --trace"),
        };
        let trace = Trace::read(file)?;
        if trace.header.expert_count() != info.expert_records
            || trace.header.top_k as usize != info.top_k
        {
            return Err(problem(&format!(
                "a trace of another model ({})",
                trace.header.model
            )));
        }
        if trace.steps.iter().filter(|step| step.tokens == 1).count() < 2 {
            return Err(problem("a trace without steps of one token"));
        }
        Ok(HitModel::Trace {
            replay: Replay::new(&[trace])?,
            policy,
            name: file.display().to_string(),
        })
    }

    /// Share of the experts asked for that are found, with `slots` places for `experts` experts.
    pub fn rate(&self, slots: u64, experts: u64) -> f64 {
        if slots >= experts {
            return 1.0;
        }
        match self {
            HitModel::Uniform => slots as f64 / experts.max(1) as f64,
            HitModel::Trace { replay, policy, .. } => {
                let online = ReplayPolicy::Online(*policy);
                replay.run(online, slots as usize).warm.hit_rate()
            }
        }
    }

    /// What it stands on, for people and programs.
    pub fn name(&self) -> String {
        match self {
            HitModel::Uniform => "uniform routing".to_owned(),
            HitModel::Trace { name, .. } => format!("trace {name}"),
        }
    }
}
