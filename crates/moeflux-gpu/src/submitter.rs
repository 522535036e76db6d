//! Submits what was recorded on a thread of its own: most of the work that recording makes for the
//! host is done when a command encoder is finished.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{hint, thread};

use crate::Gpu;

/// Fewest threads of the host for one to be taken.
const LEAST_THREADS: usize = 4;
/// How long the thread looks for work before it sleeps: waking up takes as long as a tenth of a step.
const SPIN: Duration = Duration::from_millis(1);

/// What the thread is told.
pub(crate) enum Job {
    /// To submit commands.
    Submit(wgpu::CommandEncoder),
    /// To make commands ready.
    Prepare(wgpu::CommandEncoder),
    /// To submit what it has made ready.
    Go,
    /// To forget that.
    Forget,
}

/// A thread that submits in the order in which it is told to.
pub(crate) struct Submitter {
    gpu: Arc<Gpu>,
    work: Option<Sender<Job>>,
    sent: u64,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Submitter {
    /// One for `gpu`, unless threads are scarce: then who records submits.
    pub fn new(gpu: &Arc<Gpu>) -> Option<Submitter> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        if threads < LEAST_THREADS || gpu.line().is_software {
            return None;
        }
        Submitter::start(Arc::clone(gpu))
    }

    fn start(gpu: Arc<Gpu>) -> Option<Submitter> {
        let (work, given) = channel();
        let done = Arc::new(AtomicU64::new(0));
        let (told, own) = (Arc::clone(&done), Arc::clone(&gpu));
        let thread = thread::Builder::new()
            .name("moeflux-gpu".to_owned())
            .spawn(move || submit_all(&own, &given, &told))
            .ok()?;
        Some(Submitter {
            gpu,
            work: Some(work),
            sent: 0,
            done,
            thread: Some(thread),
        })
    }

    /// Does that soon, after what was sent before.
    pub fn send(&mut self, job: Job) {
        let Some(work) = &self.work else { return };
        match work.send(job) {
            Ok(()) => self.sent += 1,
            Err(_) => self.gpu.give_up(),
        }
    }

    /// Waits until all that was sent has been done. If the thread has panicked, so that it never
    /// will be, the device is lost.
    pub fn wait(&self) {
        while self.done.load(Ordering::Acquire) < self.sent {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                return self.gpu.give_up();
            }
            hint::spin_loop();
        }
    }
}

impl Drop for Submitter {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // A panic of its has been told where it happened.
            thread.join().ok();
        }
    }
}

fn submit_all(gpu: &Gpu, given: &Receiver<Job>, done: &AtomicU64) {
    let mut ready = None;
    while let Some(job) = next(given) {
        match job {
            Job::Submit(encoder) => {
                gpu.queue.submit([encoder.finish()]);
            }
            Job::Prepare(encoder) => ready = Some(encoder.finish()),
            Job::Go => {
                gpu.queue.submit(ready.take());
            }
            Job::Forget => ready = None,
        }
        done.fetch_add(1, Ordering::Release);
    }
}

/// The next one; `None` when there will be none.
fn next(given: &Receiver<Job>) -> Option<Job> {
    let start = Instant::now();
    while start.elapsed() < SPIN {
        match given.try_recv() {
            Ok(job) => return Some(job),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => hint::spin_loop(),
        }
    }
    given.recv().ok()
}
