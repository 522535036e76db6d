//! A bar for work that may turn out to be long.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::output;

/// Work shorter than this shows no bar.
const QUIET: Duration = Duration::from_secs(1);

/// A bar on standard error that appears once the work has taken a second; on a terminal only.
pub struct Progress {
    bar: ProgressBar,
    start: Instant,
    is_shown: bool,
}

impl Progress {
    /// A bar over `total` things of the kind.
    pub fn new(total: usize, things: impl Into<Cow<'static, str>>) -> Progress {
        let bar = output::count_bar(total as u64, things);
        bar.set_draw_target(ProgressDrawTarget::hidden());
        Progress {
            bar,
            start: Instant::now(),
            is_shown: false,
        }
    }

    /// Moves on by `count` things.
    pub fn advance(&mut self, count: usize) {
        self.bar.inc(count as u64);
        if !self.is_shown && self.start.elapsed() > QUIET {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.is_shown = true;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
