//! What a trace shows.
pub struct Concentration;
pub struct TraceFigures;
