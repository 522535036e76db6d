//! What can go wrong in a comparison.

use moeflux::experts::ExpertError;
use moeflux::formats::FormatError;

/// Why a case did not run, or two traces of it do not agree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HarnessError {
    /// The engine or a backend refused.
    #[error(transparent)]
    Engine(#[from] moeflux::Error),
    /// The case's experts could not be made resident.
    #[error(transparent)]
    Expert(#[from] ExpertError),
    /// The case's weights could not be coded.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The case contradicts itself or asks for something that cannot be done with it.
    #[error("case {case}: {problem}")]
    Case {
        /// The case.
        case: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Two traces differ.
    #[error("{place}: {problem}")]
    Difference {
        /// Session, operation, buffer, row.
        place: String,
        /// By how much, and what was allowed.
        problem: String,
    },
}
