//! The share of experts that are in memory once it is warm.

/// What is assumed of routing.
#[derive(Clone, Debug, PartialEq)]
pub enum HitModel {
    /// Every expert is used as often as any other: the worst case.
    Uniform,
}

impl HitModel {
    /// Share of the experts asked for that are found, with `slots` places for `experts` experts.
    pub fn rate(&self, slots: u64, experts: u64) -> f64 {
        match self {
            HitModel::Uniform => (slots as f64 / experts.max(1) as f64).min(1.0),
        }
    }

    /// What it stands on, for people and programs.
    pub fn name(&self) -> String {
        match self {
            HitModel::Uniform => "uniform routing".to_owned(),
        }
    }
}
