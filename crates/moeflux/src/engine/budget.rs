//! How the memory bound is shared out: resident weights, scratch and the sessions' state first,
//! the experts' arena takes the rest.

use moeflux_kernels::{KvPage, KvType};

use crate::backend::ExpertStage;
use crate::graph::{BufferPool, Rows, StateDecl};
use crate::info::Opened;
use crate::{EngineOptions, Error, memory};

/// Thread stacks, allocator slack, buffers of readers beside the direct ones.
const ALLOWANCE_BYTES: u64 = 16 << 20;
/// Memory for unaligned reads, for each reading thread.
const READ_BUFFER_BYTES: u64 = 2 << 20;
/// The arena never shrinks below this many experts: one computes while another is read.
const SMALLEST_SLOTS: u64 = 2;
/// Scratch takes at most this part of the bound, where the chunk size is not given.
const SCRATCH_SHARE: u64 = 8;
/// Chunk sizes to choose from.
const CHUNKS: [usize; 7] = [512, 256, 128, 64, 32, 16, 8];
/// Logits of a chunk take at most this much.
const LOGITS_BYTES: u64 = 32 << 20;
/// The bound where the system does not say what it has.
const FALLBACK_LIMIT_BYTES: u64 = 8 << 30;

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
    /// Buffers of a step.
    pub scratch_bytes: u64,
    /// State of one session in its first page.
    pub state_bytes: u64,
    /// The experts' arena at the start.
    pub arena_bytes: u64,
    /// The smallest arena that works.
    pub smallest_arena_bytes: u64,
    /// The most tokens in a step.
    pub chunk_tokens: usize,
    /// The most positions with logits in a step.
    pub chunk_outputs: usize,
}

impl MemoryPlan {
    /// Bytes that the arena may have beside `state` bytes of sessions' state.
    pub fn arena_beside_state(&self, state: u64) -> u64 {
        self.limit_bytes.saturating_sub(self.fixed_bytes() + state)
    }

    /// The error that says how large the bound would have to be.
    pub(super) fn too_small(&self, state: u64) -> Error {
        let needed = self.fixed_bytes() + state + self.smallest_arena_bytes;
        Error::MemoryBudget {
            given: self.limit_bytes,
            needed: rounded_up(needed),
        }
    }

    fn fixed_bytes(&self) -> u64 {
        self.overhead_bytes + self.dense_bytes + self.scratch_bytes
    }
}

/// Budgets that messages suggest are whole MiB.
fn rounded_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(1 << 20)
}

/// Shares out the memory bound for the model.
pub(super) fn plan(
    opened: &Opened,
    options: &EngineOptions,
    read_threads: usize,
) -> Result<MemoryPlan, Error> {
    let limit_bytes = options.memory_bytes.unwrap_or_else(default_limit);
    let slot = opened.table.catalog.slot_bytes();
    let experts = opened.table.catalog.expert_count() as u64;
    let mut plan = MemoryPlan {
        limit_bytes,
        overhead_bytes: memory::resident_bytes().unwrap_or(0)
            + ALLOWANCE_BYTES
            + read_threads as u64 * READ_BUFFER_BYTES
            + limit_bytes / 128,
        dense_bytes: opened.survey.bytes,
        scratch_bytes: 0,
        state_bytes: opened
            .blueprint
            .graph
            .states
            .iter()
            .map(|state| first_page_bytes(state, options.kv))
            .sum(),
        arena_bytes: 0,
        smallest_arena_bytes: slot * SMALLEST_SLOTS.min(experts),
        chunk_tokens: 0,
        chunk_outputs: 0,
    };
    choose_chunk(&mut plan, opened, options)?;
    let room = plan.arena_beside_state(plan.state_bytes);
    if room < plan.smallest_arena_bytes {
        return Err(plan.too_small(plan.state_bytes));
    }
    let all = slot * experts;
    plan.arena_bytes = match options.expert_cache_bytes {
        None => room.min(all),
        Some(cache) if cache < slot => {
            let problem =
                format!("{cache} bytes hold no expert of {slot} bytes; give at least {slot}");
            return Err(Error::Option {
                flag: "--expert-cache",
                problem,
            });
        }
        Some(cache) if cache.min(all) > room => {
            let needed = plan.fixed_bytes() + plan.state_bytes + cache.min(all);
            return Err(Error::MemoryBudget {
                given: limit_bytes,
                needed: rounded_up(needed),
            });
        }
        Some(cache) => {
            plan.smallest_arena_bytes = plan.smallest_arena_bytes.min(cache);
            cache.min(all)
        }
    };
    Ok(plan)
}

fn default_limit() -> u64 {
    let available = memory::available_bytes().unwrap_or(FALLBACK_LIMIT_BYTES);
    available / 100 * memory::DEFAULT_SHARE_PERCENT
}

fn first_page_bytes(state: &StateDecl, kv: KvType) -> u64 {
    match *state {
        StateDecl::KeyValue { kv_heads, head_dim } => KvPage::bytes(kv, kv_heads, head_dim),
        StateDecl::Recurrent { len } => len as u64 * 8,
    }
}

/// The largest chunk whose scratch memory is within its share, or the one asked for.
fn choose_chunk(
    plan: &mut MemoryPlan,
    opened: &Opened,
    options: &EngineOptions,
) -> Result<(), Error> {
    let graph = &opened.blueprint.graph;
    let token_row = BufferPool::row_bytes(graph, Rows::Tokens);
    let output_row = BufferPool::row_bytes(graph, Rows::Outputs);
    let expert_row = opened
        .blueprint
        .experts
        .iter()
        .map(|e| ExpertStage::token_scratch_bytes(opened.blueprint.top_k, e.hidden, e.intermediate))
        .max()
        .unwrap_or(0);
    let quantized_row = opened
        .blueprint
        .graph
        .buffers
        .iter()
        .map(|b| b.width as u64 * 2)
        .max();
    let token_row = token_row + expert_row + quantized_row.unwrap_or(0);
    let set = |plan: &mut MemoryPlan, chunk: usize| {
        let outputs = (LOGITS_BYTES / output_row.max(1)).clamp(1, chunk as u64);
        plan.chunk_tokens = chunk;
        plan.chunk_outputs = outputs as usize;
        // Logits are handed out as a copy.
        plan.scratch_bytes = chunk as u64 * token_row + 2 * outputs * output_row;
    };
    match options.chunk_tokens {
        Some(chunk @ 1..=65536) => set(plan, chunk),
        Some(chunk) => {
            let problem = format!("{chunk} is not between 1 and 65536");
            return Err(Error::Option {
                flag: "--chunk-tokens",
                problem,
            });
        }
        None => {
            for chunk in CHUNKS {
                set(plan, chunk);
                let fits = plan.arena_beside_state(plan.state_bytes) >= plan.smallest_arena_bytes;
                if fits && plan.scratch_bytes <= plan.limit_bytes / SCRATCH_SHARE {
                    break;
                }
            }
        }
    }
    Ok(())
}
