//! Which cores this thread may run on, and keeping it on one. Linux only; elsewhere nothing is
//! known and nothing is done.

/// The cores that the calling thread may run on, ascending; empty if the system does not say.
#[cfg(target_os = "linux")]
pub(crate) fn allowed_cores() -> Vec<usize> {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a set is plain bits, for which zeros are a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set lives through the call and has the size that is passed.
    if unsafe { libc::sched_getaffinity(0, size, &mut set) } != 0 {
        return Vec::new();
    }
    // SAFETY: the index is below the number of bits of a set.
    let allowed = |&core: &usize| unsafe { libc::CPU_ISSET(core, &set) };
    (0..size * 8).filter(allowed).collect()
}

/// Keeps the calling thread on a core; where the system refuses, it stays free.
#[cfg(target_os = "linux")]
pub(crate) fn stay_on(core: usize) {
    let size = size_of::<libc::cpu_set_t>();
    if core >= size * 8 {
        return;
    }
    // SAFETY: as above; the index was checked.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        // A refusal costs speed at most.
        let _ = libc::sched_setaffinity(0, size, &set);
    }
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn allowed_cores() -> Vec<usize> {
    Vec::new()
}

/// Not done here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn stay_on(_core: usize) {}
