//! The processor as the kernels see it: an instruction set and a pool of threads.

use crate::{Isa, KernelError, ThreadPool, lanes::Backend};

/// Runs the kernels with one instruction set on one thread pool. The operations are methods, one
/// file each; results do not depend on either choice.
pub struct Cpu {
    isa: Isa,
    pub(crate) backend: Backend,
    pub(crate) pool: ThreadPool,
}

impl Cpu {
    /// A processor with `threads` threads (at least one: the caller's).
    ///
    /// # Errors
    /// [`KernelError::IsaUnavailable`] if this processor lacks the instruction set.
    pub fn new(isa: Isa, threads: usize) -> Result<Cpu, KernelError> {
        let backend = Backend::detect(isa).ok_or_else(|| KernelError::IsaUnavailable {
            isa,
            best: Isa::detect(),
        })?;
        Ok(Cpu {
            isa,
            backend,
            pool: ThreadPool::new(threads),
        })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The pool, for other work of the same owner.
    pub fn pool(&self) -> &ThreadPool {
        &self.pool
    }

    /// Runs `body(first, end)` over `0..items` in parallel, in ranges of at least `grain` items.
    pub(crate) fn split(&self, items: usize, grain: usize, body: &(dyn Fn(usize, usize) + Sync)) {
        // A few ranges a thread even out threads that are late or slow.
        let ranges = (items / grain.max(1)).clamp(1, self.pool.threads() * 8);
        let length = items.div_ceil(ranges).max(1);
        self.pool.run(items.div_ceil(length), &|range| {
            let first = range * length;
            body(first, (first + length).min(items));
        });
    }
}
