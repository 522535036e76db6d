//! Memory that is counted as long as it lives.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Adds bytes to a count, and takes them back when it is dropped; a clone adds them again.
#[derive(Debug)]
pub struct Counted {
    bytes: u64,
    count: Arc<AtomicU64>,
}

impl Counted {
    /// Adds `bytes` to `count`.
    pub fn new(bytes: u64, count: &Arc<AtomicU64>) -> Counted {
        count.fetch_add(bytes, Ordering::Relaxed);
        Counted {
            bytes,
            count: Arc::clone(count),
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Clone for Counted {
    fn clone(&self) -> Counted {
        Counted::new(self.bytes, &self.count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
