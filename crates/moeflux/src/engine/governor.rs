//! Keeps the process within its memory bound while it runs: before a step, sessions and scratch
//! memory get what the step needs and the experts' arena gives way, or gets back what they no
//! longer need. The system's own limits are looked at between steps, since they may change.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::budget::{Room, SMALLEST_CHUNK};
use super::{Engine, Executor, MemoryPlan, Span};
use crate::memory::{LimitWatch, return_freed};
use crate::session::Session;
use crate::{Error, Want};

/// The bound grows back only by at least this part of it: shrinking is urgent, growing is not.
const GROWTH_SHARE: u64 = 64;

/// The memory bound, and what is spent of it.
pub(super) struct Governor {
    plan: MemoryPlan,
    watch: LimitWatch,
    /// The bound now: the plan's, or less where the system has less.
    limit_bytes: u64,
    /// What scratch memory has room for now.
    room: Room,
}

/// What a step changes in memory.
#[derive(Clone, Copy)]
struct Change {
    room: Room,
    arena_bytes: u64,
}

impl Governor {
    pub fn new(plan: MemoryPlan, watch: LimitWatch) -> Governor {
        Governor {
            limit_bytes: plan.limit_bytes,
            room: plan.first_room(),
            plan,
            watch,
        }
    }

    /// The bound now, in bytes.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// What scratch memory has room for now.
    pub fn room(&self) -> Room {
        self.room
    }

    /// Looks at what the system allows, if it is time to.
    fn look(&mut self, now: Instant) {
        let Some(ceiling) = self.watch.ceiling(now) else {
            return;
        };
        let allowed = self.plan.limit_bytes.min(ceiling);
        let grown = self.limit_bytes + self.plan.limit_bytes / GROWTH_SHARE;
        if allowed < self.limit_bytes || allowed >= grown || allowed == self.plan.limit_bytes {
            self.limit_bytes = allowed;
        }
    }

    /// What a step that needs `need` changes, where sessions have `state` bytes and get `growth`
    /// more. `None` if the arena would become too small for that.
    fn change(&self, need: Room, state: u64, growth: u64) -> Option<Change> {
        let room = self.room.for_step(need, self.plan.most_room());
        let left = |limit| self.plan.left(limit, state + growth, room);
        let smallest = self.plan.smallest_arena_bytes;
        let arena_bytes = match left(self.limit_bytes) {
            Some(left) if left >= smallest => left,
            // The system took memory away that is in use already. To stop would free none.
            _ if growth == 0 && room.tokens <= self.room.tokens => {
                left(self.plan.limit_bytes).filter(|&left| left >= smallest)?;
                smallest
            }
            _ => return None,
        };
        let arena_bytes = arena_bytes.min(self.plan.arena_bytes);
        Some(Change { room, arena_bytes })
    }
}

impl Engine {
    /// Makes room for the spans' tokens in their sessions and in scratch memory; experts give way
    /// where the memory bound demands it, and come back where it no longer does.
    pub(super) fn make_room(
        &self,
        executor: &mut Executor,
        spans: &mut [Span<'_>],
    ) -> Result<(), Error> {
        let need = Room {
            tokens: spans.iter().map(|s| s.tokens.len()).sum(),
            outputs: spans.iter().map(Span::outputs).sum(),
        };
        let growth = spans
            .iter()
            .map(|s| s.session.growth_bytes(s.tokens.len()))
            .sum();
        executor.governor.look(Instant::now());
        let state = self.state_bytes();
        match executor.governor.change(need, state, growth) {
            Some(change) => executor.apply(change)?,
            None => {
                let sessions: Vec<&Session> = spans.iter().map(|s| &*s.session).collect();
                return Err(self.memory_full(&executor.governor, &sessions, need));
            }
        }
        for span in spans {
            span.session.reserve(span.tokens.len())?;
        }
        Ok(())
    }

    /// Scratch memory for `need` without any session.
    pub(super) fn make_scratch(&self, executor: &mut Executor, need: Room) -> Result<(), Error> {
        match executor.governor.change(need, self.state_bytes(), 0) {
            Some(change) => executor.apply(change),
            None => Err(self.memory_full(&executor.governor, &[], need)),
        }
    }

    /// How many of `tokens` tokens to run at once for `session`: as many as a step takes, fewer
    /// where memory is short.
    pub(super) fn next_chunk(&self, session: &Session, tokens: usize, want: Want) -> usize {
        let plan = &self.plan;
        let most = match want {
            Want::All => plan.chunk_outputs.min(plan.chunk_tokens),
            _ => plan.chunk_tokens,
        };
        let executor = self.lock();
        let paced = executor
            .pace
            .chunk(tokens, executor.stage.residency.is_complete());
        let mut chunk = paced.min(most);
        let (governor, state) = (&executor.governor, self.state_bytes());
        while chunk > SMALLEST_CHUNK {
            let outputs = if want == Want::All { chunk } else { 1 };
            let need = Room {
                tokens: chunk,
                outputs,
            };
            let growth = session.growth_bytes(chunk);
            if governor.change(need, state, growth).is_some() {
                break;
            }
            chunk = chunk.div_ceil(2).max(SMALLEST_CHUNK);
        }
        chunk
    }

    /// Whether `tokens` more of `session` fit in the memory bound, before any is computed.
    pub(super) fn check_memory(&self, session: &Session, tokens: usize) -> Result<(), Error> {
        let need = Room {
            tokens: tokens.min(SMALLEST_CHUNK).min(self.plan.chunk_tokens),
            outputs: 1,
        };
        let mut executor = self.lock();
        executor.governor.look(Instant::now());
        let (governor, state) = (&executor.governor, self.state_bytes());
        match governor.change(need, state, session.growth_bytes(tokens)) {
            Some(_) => Ok(()),
            None => {
                let need = Room { tokens, ..need };
                Err(self.memory_full(governor, &[session], need))
            }
        }
    }

    /// Makes room for a session that is restored from `bytes` bytes, which are in memory as well.
    pub(super) fn make_room_to_restore(&self, bytes: u64) -> Result<(), Error> {
        // Recurrent states are kept twice, and pages are whole.
        self.make_room_for_state(2 * bytes + self.plan.state_bytes)
    }

    /// Makes room in the memory bound for `growth` bytes more of state that a caller is about to
    /// have; experts give way.
    ///
    /// # Errors
    /// [`Error::MemoryBudget`] if they cannot.
    pub fn make_room_for_state(&self, growth: u64) -> Result<(), Error> {
        let mut executor = self.lock();
        let (plan, state) = (&self.plan, self.state_bytes());
        let room = executor.governor.room;
        match executor.governor.change(room, state, growth) {
            Some(change) => executor.apply(change),
            None => Err(Error::MemoryBudget {
                given: executor.governor.limit_bytes,
                needed: plan.needed(state + growth, room, plan.smallest_arena_bytes),
            }),
        }
    }

    fn state_bytes(&self) -> u64 {
        self.shape.state_bytes.load(Ordering::Relaxed)
    }

    /// The error for a step that `governor` has no room for: how many more tokens each of
    /// `sessions` may have, and the bound that would do.
    fn memory_full(&self, governor: &Governor, sessions: &[&Session], need: Room) -> Error {
        let plan = &self.plan;
        let growth =
            |tokens: usize| -> u64 { sessions.iter().map(|s| s.growth_bytes(tokens)).sum() };
        let one = Room {
            tokens: sessions.len(),
            outputs: sessions.len(),
        };
        let state = self.state_bytes();
        let (mut fit, mut beyond) = (0, need.tokens);
        while beyond - fit > 1 {
            let middle = fit + (beyond - fit) / 2;
            match governor.change(one, state, growth(middle)) {
                Some(_) => fit = middle,
                None => beyond = middle,
            }
        }
        let each = need.tokens.div_ceil(sessions.len().max(1));
        let chunk = Room {
            tokens: need.tokens.min(SMALLEST_CHUNK),
            outputs: 1,
        };
        Error::MemoryFull {
            tokens: need.tokens,
            fit,
            given: governor.limit_bytes,
            needed: plan.needed(state + growth(each), chunk, plan.smallest_arena_bytes),
        }
    }
}

impl Executor {
    /// Changes scratch memory and arena, what shrinks first.
    fn apply(&mut self, change: Change) -> Result<(), Error> {
        let residency = &mut self.stage.residency;
        let now = residency.slots() as u64 * residency.slot_bytes();
        if change.arena_bytes < now {
            residency.shrink_to(change.arena_bytes)?;
        }
        let (held, room) = (self.governor.room, change.room);
        if room != held {
            self.buffers.fit(room.tokens, room.outputs);
            if room.tokens < held.tokens {
                self.stage.give_back_scratch();
                self.backend.give_back_scratch();
            }
            self.governor.room = room;
        }
        let residency = &mut self.stage.residency;
        if change.arena_bytes >= now + residency.slot_bytes() {
            // What scratch and sessions held before is the allocator's until it is told.
            return_freed();
            residency.grow_to(change.arena_bytes);
        }
        Ok(())
    }
}
