//! Which tokens the next step takes.

use std::time::Duration;

/// One sequence as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Tokens that its session does not hold yet.
    pub rest: usize,
    /// Whether it is an answer that is running.
    pub decoding: bool,
}

/// What a step has room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Tokens of prompts when no answer is running.
    pub chunk: usize,
    /// The same when answers are running.
    pub shared_chunk: usize,
    /// Tokens of the whole step.
    pub step: usize,
}

/// Shares steps out between prompts and running answers.
#[derive(Debug, Default)]
pub struct Turns {
    /// Which prompt comes first in the next chunk.
    first: usize,
    /// Time that prompts have had and running answers not yet.
    owed: Duration,
}

impl Turns {
    /// How many tokens of each sequence the next step takes.
    pub fn share(&mut self, sequences: &[Candidate], room: Room) -> Vec<usize> {
        let decoding = sequences.iter().filter(|s| s.decoding).count();
        let mut counts: Vec<usize> = sequences.iter().map(|s| usize::from(s.decoding)).collect();
        if decoding > 0 && !self.owed.is_zero() {
            return counts;
        }
        let chunk = match decoding {
            0 => room.chunk,
            _ => room.chunk.min(room.shared_chunk),
        };
        let mut left = chunk.min(room.step.saturating_sub(decoding)).max(1);
        let many = sequences.len();
        let order = (0..many).map(|i| (self.first + i) % many.max(1));
        let mut next = None;
        for index in order.filter(|&i| !sequences[i].decoding) {
            let count = sequences[index].rest.min(left);
            counts[index] = count;
            left -= count;
            if left == 0 {
                next = Some(index + 1);
                break;
            }
        }
        self.first = next.unwrap_or(0);
        counts
    }

    /// Takes note of how long a step took; `prompts`: whether it had tokens of prompts, `answers`:
    /// whether answers were running.
    pub fn note(&mut self, time: Duration, prompts: bool, answers: bool) {
        self.owed = match (prompts, answers) {
            (true, true) => self.owed + time,
            (true, false) => Duration::ZERO,
            (false, _) => self.owed.saturating_sub(time),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        chunk: 100,
        shared_chunk: 40,
        step: 100,
    };

    fn prompt(rest: usize) -> Candidate {
        Candidate {
            rest,
            decoding: false,
        }
    }

    const ANSWER: Candidate = Candidate {
        rest: 1,
        decoding: true,
    };

    #[test]
    fn prompts_take_turns_and_share_chunks() {
        let mut turns = Turns::default();
        let all = [prompt(250), prompt(30), prompt(90)];
        assert_eq!(turns.share(&all, ROOM), [100, 0, 0]);
        assert_eq!(turns.share(&all, ROOM), [0, 30, 70]);
        assert_eq!(turns.share(&all, ROOM), [100, 0, 0], "the third was last");
        assert_eq!(turns.share(&[prompt(3)], ROOM), [3]);
    }

    #[test]
    fn answers_get_half_of_the_time() {
        let mut turns = Turns::default();
        let all = [ANSWER, prompt(250), ANSWER];
        assert_eq!(turns.share(&all, ROOM), [1, 40, 1]);
        turns.note(Duration::from_millis(30), true, true);
        for _ in 0..3 {
            assert_eq!(turns.share(&all, ROOM), [1, 0, 1]);
            turns.note(Duration::from_millis(10), false, true);
        }
        assert_eq!(turns.share(&all, ROOM), [1, 40, 1]);
        turns.note(Duration::from_millis(30), true, true);
        let alone = [prompt(250)];
        assert_eq!(turns.share(&alone, ROOM), [100], "nobody is owed anything");
    }

    #[test]
    fn every_step_has_tokens() {
        let narrow = Room {
            chunk: 8,
            shared_chunk: 8,
            step: 8,
        };
        let mut turns = Turns::default();
        let all = [prompt(9), ANSWER, ANSWER, prompt(9)];
        for _ in 0..9 {
            let counts = turns.share(&all, narrow);
            assert!(
                (1..=8).contains(&counts.iter().sum::<usize>()),
                "{counts:?}"
            );
        }
    }
}
