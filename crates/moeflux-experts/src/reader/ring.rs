//! io_uring: many reads in flight from one thread. A thin wrapper that keeps the unsafe parts.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, squeue, types};

/// Tags of completions that nobody waits for.
const IGNORED: u64 = u64::MAX;

/// Where and when a read's bytes go.
pub(crate) struct Target {
    /// Up to three places, in order.
    pub places: [libc::iovec; 3],
    /// How many of them count.
    pub count: usize,
    /// The read begins that much later; `None`: at once.
    pub delay: Option<types::Timespec>,
}

impl Target {
    /// None yet.
    pub const NONE: Target = Target {
        places: [NO_PLACE; 3],
        count: 0,
        delay: None,
    };

    /// Sets the places, at most three.
    pub fn set(&mut self, parts: &mut [IoSliceMut<'_>]) {
        self.count = 0;
        for (place, part) in self.places.iter_mut().zip(parts) {
            *place = libc::iovec {
                iov_base: part.as_mut_ptr().cast(),
                iov_len: part.len(),
            };
            self.count += 1;
        }
    }

    /// One place, at once. The memory must be kept as long as the target is used.
    pub fn one(place: &mut [u8]) -> Target {
        let mut target = Target::NONE;
        target.set(&mut [IoSliceMut::new(place)]);
        target
    }
}

const NO_PLACE: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

// SAFETY: it holds addresses and follows none; `Ring::read` is told who may.
unsafe impl Send for Target {}

/// A ring over a fixed list of files.
pub(crate) struct Ring {
    ring: IoUring,
}

impl Ring {
    /// A ring for `entries` requests over `files`, which it keeps open.
    ///
    /// # Errors
    /// The system's reason where it has no io_uring for us, in words.
    pub fn new(files: &[File], entries: usize) -> Result<Ring, String> {
        let said = |what: &str, error: io::Error| format!("{what}: {error}");
        // Each read may have a timeout before it, and the wake-up is one more.
        let entries = (2 * entries as u32 + 2).next_power_of_two();
        let ring = lean(entries)
            .or_else(|_| IoUring::new(entries))
            .map_err(|error| said(reason(&error), error))?;
        let descriptors: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
        ring.submitter()
            .register_files(&descriptors)
            .map_err(|error| said("io_uring does not take the files", error))?;
        Ok(Ring { ring })
    }

    /// Queues a read of file number `file` from `offset` on; its completion has `tag` (below
    /// `u64::MAX`).
    ///
    /// # Safety
    /// The target's places must be writable memory. They and the target itself must stay where they
    /// are, and nothing else may touch them, until the completion is taken.
    pub unsafe fn read(
        &mut self,
        tag: u64,
        file: u32,
        offset: u64,
        target: *const Target,
    ) -> io::Result<()> {
        // SAFETY: valid by the contract.
        let Target {
            places,
            count,
            delay,
        } = unsafe { &*target };
        let read = opcode::Readv::new(types::Fixed(file), places.as_ptr(), *count as u32)
            .offset(offset)
            .build()
            .user_data(tag);
        let Some(delay) = delay else {
            // SAFETY: valid by the contract.
            return unsafe { self.push(&[read]) };
        };
        let timeout = opcode::Timeout::new(delay)
            .build()
            .user_data(IGNORED)
            // The read follows whatever the timeout says.
            .flags(squeue::Flags::IO_HARDLINK);
        // SAFETY: places and delay are valid until the completion by the contract.
        unsafe { self.push(&[timeout, read]) }
    }

    /// Queues a look at a descriptor: a completion with `tag` follows once it can be read from.
    pub fn watch(&mut self, tag: u64, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let readable = libc::POLLIN as u32;
        let poll = opcode::PollAdd::new(types::Fd(descriptor.as_raw_fd()), readable);
        // SAFETY: the request refers to no memory.
        unsafe { self.push(&[poll.build().user_data(tag)]) }
    }

    /// # Safety
    /// As the kernel asks of each entry.
    unsafe fn push(&mut self, entries: &[squeue::Entry]) -> io::Result<()> {
        // SAFETY: by the contract.
        if unsafe { self.ring.submission().push_multiple(entries) }.is_ok() {
            return Ok(());
        }
        self.ring.submit()?;
        // SAFETY: by the contract.
        unsafe { self.ring.submission().push_multiple(entries) }
            .map_err(|_| io::Error::other("io_uring's queue is full"))
    }

    /// Hands over what is queued and waits for a completion. Returning without one is no error.
    pub fn wait(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// The next completion: its tag, and bytes read or the error.
    pub fn completion(&mut self) -> Option<(u64, io::Result<usize>)> {
        loop {
            let entry = self.ring.completion().next()?;
            if entry.user_data() == IGNORED {
                continue;
            }
            let result = match entry.result() {
                bytes @ 0.. => Ok(bytes as usize),
                code => Err(io::Error::from_raw_os_error(-code)),
            };
            return Some((entry.user_data(), result));
        }
    }
}

/// A ring of one thread whose completions are worked on when that thread asks for them.
fn lean(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(entries)
}

fn reason(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "this system has no io_uring",
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is refused (by a container's seccomp profile or kernel.io_uring_disabled)"
        }
        Some(libc::ENOMEM) => "io_uring may not lock memory (raise `ulimit -l`)",
        _ => "io_uring does not start",
    }
}
