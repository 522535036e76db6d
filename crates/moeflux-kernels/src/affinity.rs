//! The cores that a thread may run on. Linux only; elsewhere nothing is known and nothing is done.

/// A set of cores.
#[derive(Clone, Copy)]
#[cfg(target_os = "linux")]
pub(crate) struct Cores(libc::cpu_set_t);

#[cfg(target_os = "linux")]
impl Cores {
    const SIZE: usize = size_of::<libc::cpu_set_t>();

    fn none() -> Cores {
        // SAFETY: a set is plain bits, for which zeros are a value.
        Cores(unsafe { std::mem::zeroed() })
    }

    /// Those of the calling thread; none if the system does not say.
    pub(crate) fn allowed() -> Cores {
        let mut set = Cores::none();
        // SAFETY: the set lives through the call and has the size that is passed.
        match unsafe { libc::sched_getaffinity(0, Self::SIZE, &mut set.0) } {
            0 => set,
            _ => Cores::none(),
        }
    }

    /// One of them alone.
    pub(crate) fn only(core: usize) -> Cores {
        let mut set = Cores::none();
        if core < Self::SIZE * 8 {
            // SAFETY: the index is below the number of bits of a set.
            unsafe { libc::CPU_SET(core, &mut set.0) };
        }
        set
    }

    pub(crate) fn contains(&self, core: usize) -> bool {
        // SAFETY: the index is below the number of bits of a set.
        core < Self::SIZE * 8 && unsafe { libc::CPU_ISSET(core, &self.0) }
    }

    /// Their numbers, ascending.
    pub(crate) fn list(&self) -> Vec<usize> {
        (0..Self::SIZE * 8)
            .filter(|&core| self.contains(core))
            .collect()
    }

    /// Keeps the calling thread on them; where the system refuses, it stays as free as it was.
    pub(crate) fn keep_to(&self) {
        // SAFETY: the set lives through the call and has the size that is passed.
        // A refusal costs speed at most.
        let _ = unsafe { libc::sched_setaffinity(0, Self::SIZE, &self.0) };
    }
}

/// Nothing is known of cores here.
#[derive(Clone, Copy)]
#[cfg(not(target_os = "linux"))]
pub(crate) struct Cores;

#[cfg(not(target_os = "linux"))]
impl Cores {
    pub(crate) fn allowed() -> Cores {
        Cores
    }

    pub(crate) fn only(_core: usize) -> Cores {
        Cores
    }

    pub(crate) fn contains(&self, _core: usize) -> bool {
        false
    }

    pub(crate) fn list(&self) -> Vec<usize> {
        Vec::new()
    }

    pub(crate) fn keep_to(&self) {}
}
