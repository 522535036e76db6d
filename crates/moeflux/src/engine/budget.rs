//! How the memory bound is shared out: resident weights, scratch and the sessions' state first,
//! the experts' arena takes the rest.

use std::path::Path;

use moeflux_kernels::{KV_PAGE_TOKENS, KvType};

use crate::backend::ExpertStage;
use crate::graph::{BufferPool, Rows, StateDecl};
use crate::huge_pages::HUGE_PAGE_BYTES;
use crate::info::Opened;
use crate::{EngineOptions, Error};

/// Thread stacks, allocator slack, buffers of readers beside the direct ones.
const ALLOWANCE_BYTES: u64 = 16 << 20;
/// Memory for unaligned reads, for each reading thread.
const READ_BUFFER_BYTES: u64 = 2 << 20;
/// This part of the bound is kept back for the system's tables and for what differs from run to run.
const SLACK_SHARE: u64 = 128;
/// The arena never shrinks below this many experts: one computes while another is read.
const SMALLEST_SLOTS: u64 = 2;
/// Scratch takes at most this part of the bound, where the chunk size is not given.
const SCRATCH_SHARE: u64 = 8;
/// Chunk sizes to choose from.
const CHUNKS: [usize; 10] = [4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8];
/// The smallest of them: what a prompt is cut into where memory is short.
pub(super) const SMALLEST_CHUNK: usize = 8;
/// Logits of a chunk take at most this much.
const LOGITS_BYTES: u64 = 32 << 20;
/// Steps of up to this many tokens and outputs keep their scratch memory; that of larger ones is
/// given back after them.
const SMALL_STEP: Room = Room {
    tokens: 16,
    outputs: 16,
};

/// What scratch memory has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Tokens in a step.
    pub tokens: usize,
    /// Positions with logits in a step.
    pub outputs: usize,
}

impl Room {
    /// The room to have for a step that needs `need`, where at most `most` is ever needed: grown in
    /// powers of two, and given back by a small step, so that equal steps change nothing.
    pub fn for_step(self, need: Room, most: Room) -> Room {
        let next = |held: usize, need: usize, small: usize, most: usize| {
            if need > held {
                need.next_power_of_two().min(most)
            } else if need <= small {
                held.min(small)
            } else {
                held
            }
        };
        Room {
            tokens: next(self.tokens, need.tokens, SMALL_STEP.tokens, most.tokens),
            outputs: next(self.outputs, need.outputs, SMALL_STEP.outputs, most.outputs),
        }
    }
}

/// How the memory bound is spent, in bytes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// The bound of the process's resident memory.
    pub limit_bytes: u64,
    /// What the process occupied before, plus an allowance for threads and readers.
    pub overhead_bytes: u64,
    /// Resident weights.
    pub dense_bytes: u64,
    /// Buffers of a step of one token.
    pub scratch_bytes: u64,
    /// Buffers of the largest step; the arena gives way to them, and gets them back afterwards.
    pub chunk_scratch_bytes: u64,
    /// State of one session in its first page.
    pub state_bytes: u64,
    /// The experts' arena at the start.
    pub arena_bytes: u64,
    /// The smallest arena that works.
    pub smallest_arena_bytes: u64,
    /// Bytes of an expert's place in the arena.
    pub slot_bytes: u64,
    /// The most tokens in a step.
    pub chunk_tokens: usize,
    /// The most positions with logits in a step.
    pub chunk_outputs: usize,
    /// Bytes of a step's buffers for each token.
    token_scratch_bytes: u64,
    /// Bytes of a step's buffers for each position with logits.
    output_scratch_bytes: u64,
}

impl MemoryPlan {
    /// How the bound would be shared out for the model at `path`, which is not loaded.
    ///
    /// # Errors
    /// As [`Engine::open`](crate::Engine::open) as far as files' headers and memory are concerned.
    pub fn of(path: &Path, options: &EngineOptions) -> Result<MemoryPlan, Error> {
        plan(&Opened::open(path)?, options, super::open::READ_THREADS)
    }

    /// Bytes that the arena has at the start beside `state` bytes of sessions' state; 0 where that
    /// does not work.
    pub fn arena_beside(&self, state: u64) -> u64 {
        let left = self.left(self.limit_bytes, state, self.first_room());
        let left = left.unwrap_or(0).min(self.arena_bytes);
        match left < self.smallest_arena_bytes {
            true => 0,
            false => left,
        }
    }

    /// Bytes that neither the arena at the start nor anything else has use for.
    pub fn spare_bytes(&self) -> u64 {
        let left = self.left(self.limit_bytes, self.state_bytes, self.first_room());
        left.unwrap_or(0).saturating_sub(self.arena_bytes)
    }

    /// What `limit` leaves beside `state` bytes of sessions' state and scratch memory for `room`.
    pub(super) fn left(&self, limit: u64, state: u64, room: Room) -> Option<u64> {
        let fixed = self.overhead_bytes + self.dense_bytes + self.scratch(room);
        limit.checked_sub(fixed.checked_add(state)?)
    }

    /// Bytes of a step's buffers.
    fn scratch(&self, room: Room) -> u64 {
        room.tokens as u64 * self.token_scratch_bytes
            + room.outputs as u64 * self.output_scratch_bytes
    }

    /// The room at the start: for decoding.
    pub(super) fn first_room(&self) -> Room {
        Room {
            tokens: SMALL_STEP.tokens.min(self.chunk_tokens),
            outputs: 1,
        }
    }

    /// The most that a step may need.
    pub(super) fn most_room(&self) -> Room {
        Room {
            tokens: self.chunk_tokens,
            outputs: self.chunk_outputs,
        }
    }

    /// Whether the arena still works beside `state` bytes of state while a step has `room`.
    fn fits(&self, state: u64, room: Room) -> bool {
        let left = self.left(self.limit_bytes, state, room);
        left.is_some_and(|left| left >= self.smallest_arena_bytes)
    }

    /// The smallest bound for `state` bytes of state beside `room` and an arena of `arena`.
    pub(super) fn needed(&self, state: u64, room: Room, arena: u64) -> u64 {
        let overhead = self.overhead_bytes - self.limit_bytes / SLACK_SHARE;
        let all = overhead + self.dense_bytes + self.scratch(room) + state + arena;
        // A larger bound keeps more back. Budgets that messages suggest are whole MiB, and one more:
        // what the process occupies at start differs a little from run to run.
        (all + all / (SLACK_SHARE - 1) + 1).next_multiple_of(1 << 20) + (1 << 20)
    }

    /// The error that says how large the bound would have to be.
    fn too_small(&self, arena: u64) -> Error {
        Error::MemoryBudget {
            given: self.limit_bytes,
            needed: self.needed(self.state_bytes, self.first_room(), arena),
        }
    }
}

/// Shares out the memory bound for the model.
pub(super) fn plan(
    opened: &Opened,
    options: &EngineOptions,
    read_threads: usize,
) -> Result<MemoryPlan, Error> {
    let limit_bytes = options
        .memory_bytes
        .unwrap_or_else(|| options.system.default_limit());
    let slot = opened.table.catalog.slot_bytes();
    let experts = opened.table.catalog.expert_count() as u64;
    let states = opened.blueprint.graph.states.iter();
    let mut plan = MemoryPlan {
        limit_bytes,
        overhead_bytes: options.system.resident_bytes().unwrap_or(0)
            + ALLOWANCE_BYTES
            + HUGE_PAGE_BYTES as u64
            + read_threads as u64 * READ_BUFFER_BYTES
            + limit_bytes / SLACK_SHARE,
        dense_bytes: opened.survey.bytes,
        scratch_bytes: 0,
        chunk_scratch_bytes: 0,
        state_bytes: states.map(|s| first_bytes(s, options.kv)).sum(),
        arena_bytes: 0,
        smallest_arena_bytes: slot * SMALLEST_SLOTS.min(experts),
        slot_bytes: slot,
        chunk_tokens: 0,
        chunk_outputs: 0,
        token_scratch_bytes: token_scratch_bytes(opened),
        // Logits are handed out as a copy.
        output_scratch_bytes: 2 * BufferPool::row_bytes(&opened.blueprint.graph, Rows::Outputs),
    };
    plan.choose_chunk(options)?;
    plan.choose_arena(slot * experts, options)?;
    Ok(plan)
}

impl MemoryPlan {
    /// The largest chunk whose scratch memory is within its share, or the one asked for.
    fn choose_chunk(&mut self, options: &EngineOptions) -> Result<(), Error> {
        let logits = (2 * LOGITS_BYTES / self.output_scratch_bytes.max(1)).max(1) as usize;
        let outputs = |tokens: usize| Room {
            tokens,
            outputs: tokens.min(logits),
        };
        let most = match options.chunk_tokens {
            Some(chunk @ 1..=65536) => outputs(chunk),
            Some(chunk) => {
                let problem = format!("{chunk} is not between 1 and 65536");
                return Err(Error::Option {
                    flag: "--chunk-tokens",
                    problem,
                });
            }
            None => {
                let share = self.limit_bytes / SCRATCH_SHARE;
                let mut rooms = CHUNKS.map(outputs).into_iter();
                let good =
                    rooms.find(|&r| self.scratch(r) <= share && self.fits(self.state_bytes, r));
                good.unwrap_or_else(|| outputs(SMALLEST_CHUNK))
            }
        };
        (self.chunk_tokens, self.chunk_outputs) = (most.tokens, most.outputs);
        self.chunk_scratch_bytes = self.scratch(most);
        self.scratch_bytes = self.scratch(self.first_room());
        Ok(())
    }

    /// The arena at the start, of at most `all` bytes: the rest of the bound, or what is asked for.
    fn choose_arena(&mut self, all: u64, options: &EngineOptions) -> Result<(), Error> {
        let room = self.left(self.limit_bytes, self.state_bytes, self.first_room());
        let room = room.unwrap_or(0);
        if room < self.smallest_arena_bytes {
            return Err(self.too_small(self.smallest_arena_bytes));
        }
        self.arena_bytes = match options.expert_cache_bytes {
            None => room.min(all),
            Some(cache) if cache < self.slot_bytes => {
                let slot = self.slot_bytes;
                let problem =
                    format!("{cache} bytes hold no expert of {slot} bytes; give at least {slot}");
                return Err(Error::Option {
                    flag: "--expert-cache",
                    problem,
                });
            }
            Some(cache) if cache.min(all) > room => return Err(self.too_small(cache.min(all))),
            Some(cache) => {
                self.smallest_arena_bytes = self.smallest_arena_bytes.min(cache);
                cache.min(all)
            }
        };
        Ok(())
    }
}

/// Bytes of a state that is short, or of all that a window needs.
fn first_bytes(state: &StateDecl, kv: KvType) -> u64 {
    match *state {
        StateDecl::KeyValue { window, .. } => {
            // A window begins and ends within a page, and a step of one token may add another.
            let pages = window.map_or(1, |window| window.div_ceil(KV_PAGE_TOKENS) + 2);
            state.page_bytes(kv) * pages as u64
        }
        StateDecl::Recurrent { len } => len as u64 * 8,
    }
}

/// Bytes of a step's buffers for each token: the graph's, those of the experts, and inputs of
/// products rounded to 8 bits.
fn token_scratch_bytes(opened: &Opened) -> u64 {
    let blueprint = &opened.blueprint;
    let experts = blueprint.experts.iter();
    let experts = experts
        .map(|e| ExpertStage::token_scratch_bytes(blueprint.top_k, e.hidden, e.intermediate));
    let rounded = blueprint.graph.buffers.iter().map(|b| b.width as u64 * 2);
    BufferPool::row_bytes(&blueprint.graph, Rows::Tokens)
        + experts.max().unwrap_or(0)
        + rounded.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(tokens: usize, outputs: usize) -> Room {
        Room { tokens, outputs }
    }

    #[test]
    fn room_grows_in_powers_of_two_and_is_given_back_by_a_small_step() {
        let most = room(4096, 33);
        let held = room(16, 1);
        assert_eq!(held.for_step(room(1, 1), most), held);
        let held = held.for_step(room(3000, 1), most);
        assert_eq!(held, room(4096, 1));
        // The rest of a long prompt keeps what its chunks had.
        assert_eq!(held.for_step(room(100, 1), most), held);
        assert_eq!(held.for_step(room(1, 1), most), room(16, 1));
        // More outputs than a power of two would have are bounded by the most.
        assert_eq!(held.for_step(room(33, 33), most), room(4096, 33));
    }

    #[test]
    fn steps_of_changing_small_sizes_change_room_only_once_each() {
        let most = room(512, 512);
        let mut held = room(16, 1);
        let mut changes = 0;
        for need in [1, 9, 1, 12, 3, 16, 1, 9, 1] {
            let next = held.for_step(room(need, need), most);
            changes += usize::from(next != held);
            held = next;
        }
        assert_eq!((changes, held), (1, room(16, 16)));
    }
}
