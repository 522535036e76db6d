//! A resident pool of threads for short parallel loops. It knows nothing of kernels.
//!
//! One loop runs at a time. The caller opens a gate, takes part itself, closes the gate when the
//! tasks are gone and waits for the workers that came in; workers that were too late to come in
//! are not waited for. Workers spin for a moment after a loop, then park.
//!
//! Where there are as many cores as threads, [`ThreadPool::settle`] keeps each thread on a core of
//! its own, so that two never share one while others' work of lower priority has another.

use std::{
    any::Any,
    cell::UnsafeCell,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::affinity::Cores;

/// How long a worker without work spins before it parks.
const SPIN: Duration = Duration::from_micros(40);
/// Gate: bits 0..31 count workers inside, bit 31 says open, the upper half is the loop's number.
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;
const LOOP: u64 = 1 << 32;

/// Pools made so far: each begins with another core, in case there are several.
static POOLS: AtomicUsize = AtomicUsize::new(0);

type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// A fixed set of threads that run numbered tasks. Dropping it joins them.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// The caller's core when it settles.
    core: Option<usize>,
}

/// The calling thread stays on its core; it is let go when this is dropped. Threads that are
/// started meanwhile inherit the core.
#[must_use = "the thread is let go when this is dropped"]
pub struct Settled {
    /// Where the thread might run before, if it was settled.
    before: Option<Cores>,
    /// It belongs to its thread.
    thread: PhantomData<*const ()>,
}

impl Settled {
    /// A thread that stays as free as it was.
    pub fn free() -> Settled {
        Settled {
            before: None,
            thread: PhantomData,
        }
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            before.keep_to();
        }
    }
}

struct Shared {
    /// A loop is running; others run theirs alone.
    busy: AtomicBool,
    gate: AtomicU64,
    stop: AtomicBool,
    /// Workers stay on their cores.
    settled: AtomicBool,
    /// Workers that are parked or about to.
    sleepers: AtomicUsize,
    parking: Mutex<()>,
    wake: Condvar,
    next: AtomicUsize,
    job: UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Clone, Copy)]
struct Job {
    task: Option<Task<'static>>,
    tasks: usize,
}

// SAFETY: `job` is written only by the caller that holds `busy` while the gate is closed and no
// worker is inside, and read only by workers inside; everything else is Sync.
unsafe impl Sync for Shared {}

impl ThreadPool {
    /// A pool of `threads` threads, the caller of [`run`](Self::run) included (0 counts as 1).
    /// If the system refuses a thread, the pool is smaller.
    pub fn new(threads: usize) -> ThreadPool {
        let shared = Arc::new(Shared {
            busy: AtomicBool::new(false),
            gate: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            parking: Mutex::new(()),
            wake: Condvar::new(),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(Job {
                task: None,
                tasks: 0,
            }),
            panic: Mutex::new(None),
        });
        let mut cores = Cores::allowed().list();
        match threads > 1 && threads <= cores.len() {
            true => {
                let first = POOLS.fetch_add(1, SeqCst) % cores.len();
                cores.rotate_left(first);
            }
            false => cores.clear(),
        }
        let workers = (1..threads)
            .map_while(|number| {
                let shared = Arc::clone(&shared);
                let core = cores.get(number).copied();
                std::thread::Builder::new()
                    .name(format!("moeflux-cpu-{number}"))
                    .spawn(move || shared.work(core))
                    .ok()
            })
            .collect();
        ThreadPool {
            shared,
            workers,
            core: cores.first().copied(),
        }
    }

    /// Keeps the calling thread on a core of its own while the result lives, and the workers on
    /// others from now on. Does nothing where there are fewer cores than threads, where the caller
    /// may not use that core, or where the system has no such notion.
    pub fn settle(&self) -> Settled {
        let before = Cores::allowed();
        let core = self.core.filter(|&core| before.contains(core));
        if let Some(core) = core {
            self.shared.settled.store(true, SeqCst);
            Cores::only(core).keep_to();
        }
        Settled {
            before: core.map(|_| before),
            thread: PhantomData,
        }
    }

    /// Number of threads that take part in a loop, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)` ... `task(tasks - 1)`, in any order and on any thread, and returns when all
    /// are done. While a loop is running (on another thread, or around this call) further ones
    /// run on their caller alone. A panic in a task ends the loop early and continues here.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let alone = tasks <= 1 || self.workers.is_empty();
        if alone || self.shared.busy.swap(true, SeqCst) {
            (0..tasks).for_each(task);
            return;
        }
        self.shared.run(Job {
            task: Some(extend(task)),
            tasks,
        });
        let panic = lock(&self.shared.panic).take();
        self.shared.busy.store(false, SeqCst);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// Forgets the lifetime of a task.
fn extend(task: Task<'_>) -> Task<'static> {
    // SAFETY: `Shared::run` returns only when the gate is closed and no worker is inside, so no
    // thread uses the task after the borrow ends; a panic cannot cut it short, they are caught.
    unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing can be half changed under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The caller's side of a loop. Requires `busy`.
    fn run(&self, job: Job) {
        // SAFETY: the gate is closed and nobody is inside (the end of the loop before waited).
        unsafe { *self.job.get() = job };
        self.next.store(0, SeqCst);
        // Wrapping around is harmless: a worker that slept through all of them misses one loop.
        let number = (self.gate.load(SeqCst) / LOOP + 1).wrapping_mul(LOOP);
        self.gate.store(number | OPEN, SeqCst);
        if self.sleepers.load(SeqCst) > 0 {
            let _guard = lock(&self.parking);
            self.wake.notify_all();
        }
        self.take_tasks(job);
        self.gate.fetch_and(!OPEN, SeqCst);
        let mut spins = 0u32;
        while self.gate.load(SeqCst) & INSIDE > 0 {
            spins += 1;
            if spins < 4096 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    fn take_tasks(&self, job: Job) {
        let Some(task) = job.task else { return };
        loop {
            let index = self.next.fetch_add(1, SeqCst);
            if index >= job.tasks {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(index))) {
                self.next.store(job.tasks, SeqCst);
                lock(&self.panic).get_or_insert(panic);
                return;
            }
        }
    }

    /// A worker's life; `core` is its own, until it has settled there.
    fn work(&self, mut core: Option<usize>) {
        let mut done = 0;
        while let Some(number) = self.wait_for_loop(done) {
            done = number;
            if let Some(core) = core.take_if(|_| self.settled.load(SeqCst)) {
                Cores::only(core).keep_to();
            }
            // SAFETY: this worker is inside, so the caller does not touch the job.
            let job = unsafe { *self.job.get() };
            self.take_tasks(job);
            self.gate.fetch_sub(1, SeqCst);
        }
    }

    /// Waits for an open loop other than `done` and goes inside; None when the pool ends.
    fn wait_for_loop(&self, done: u64) -> Option<u64> {
        loop {
            let start = Instant::now();
            while start.elapsed() < SPIN {
                for _ in 0..32 {
                    if let Some(number) = self.enter(done) {
                        return Some(number);
                    }
                    std::hint::spin_loop();
                }
            }
            let mut guard = lock(&self.parking);
            self.sleepers.fetch_add(1, SeqCst);
            // The caller opens the gate before it looks for sleepers: one of us sees the other.
            while !self.stop.load(SeqCst) && !self.is_open(done) {
                guard = self
                    .wake
                    .wait(guard)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            self.sleepers.fetch_sub(1, SeqCst);
            if self.stop.load(SeqCst) {
                return None;
            }
        }
    }

    fn is_open(&self, done: u64) -> bool {
        let gate = self.gate.load(SeqCst);
        gate & OPEN != 0 && gate / LOOP != done
    }

    fn enter(&self, done: u64) -> Option<u64> {
        let gate = self.gate.load(SeqCst);
        if gate & OPEN == 0 || gate / LOOP == done {
            return None;
        }
        self.gate
            .compare_exchange(gate, gate + 1, SeqCst, SeqCst)
            .ok()
            .map(|_| gate / LOOP)
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        {
            let _guard = lock(&self.shared.parking);
            self.shared.stop.store(true, SeqCst);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks; it has nothing to report.
            let _ = worker.join();
        }
    }
}
