//! What the thread is doing, request by request, for those who watch it.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// The most requests that are listed.
pub const MOST_LISTED: usize = 64;

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for its first step, or to go on.
    Waiting,
    /// Its prompt is being computed.
    Prompt,
    /// Its answer is being computed.
    Answer,
}

impl Phase {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Prompt => "prompt",
            Phase::Answer => "answer",
        }
    }
}

/// One request, in numbers of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How far it is.
    pub phase: Phase,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them the session holds.
    pub prompt_done: usize,
    /// Tokens of the answer so far.
    pub answer_tokens: usize,
}

/// The requests of a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Running ones first, then those that wait in their order; at most [`MOST_LISTED`].
    pub requests: Vec<Progress>,
    /// How many there are in all.
    pub count: usize,
}

/// What the thread last said of its requests.
#[derive(Debug)]
pub struct Overview {
    listed: Mutex<Listed>,
    /// How often a request has come.
    arrivals: watch::Sender<u64>,
}

impl Default for Overview {
    fn default() -> Overview {
        Overview {
            listed: Mutex::default(),
            arrivals: watch::Sender::new(0),
        }
    }
}

impl Overview {
    /// The requests now.
    pub fn listed(&self) -> Listed {
        let listed = self.listed.lock();
        listed.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells when a request has come.
    pub fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }

    /// Replaces the list.
    pub fn publish(&self, all: impl Iterator<Item = Progress>) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = listed.count;
        listed.requests.clear();
        listed.count = 0;
        for progress in all {
            if listed.count < MOST_LISTED {
                listed.requests.push(progress);
            }
            listed.count += 1;
        }
        if listed.count > before {
            drop(listed);
            self.arrivals.send_modify(|count| *count += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_bounded_and_tells_of_arrivals() {
        let overview = Overview::default();
        let mut arrivals = overview.arrivals();
        let waiting = Progress {
            phase: Phase::Waiting,
            prompt_tokens: 3,
            prompt_done: 0,
            answer_tokens: 0,
        };
        overview.publish(std::iter::repeat_n(waiting, 100));
        assert!(arrivals.has_changed().is_ok_and(|changed| changed));
        let listed = overview.listed();
        assert_eq!((listed.requests.len(), listed.count), (MOST_LISTED, 100));
        arrivals.mark_unchanged();
        overview.publish(std::iter::empty());
        assert_eq!(overview.listed(), Listed::default());
        assert!(arrivals.has_changed().is_ok_and(|changed| !changed));
    }
}
