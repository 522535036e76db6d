//! Ctrl-C: stops an answer that is being made, and otherwise the program.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);
static BUSY: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// While this lives, Ctrl-C asks for a stop; a second one ends the program.
#[derive(Debug)]
pub struct Guard(());

/// Starts listening for Ctrl-C.
pub fn listen() -> Guard {
    INSTALL.call_once(|| {
        // Without a handler Ctrl-C ends the program, which is what remains if this fails.
        let _ = ctrlc::set_handler(handle);
    });
    STOP.store(false, Ordering::SeqCst);
    BUSY.store(true, Ordering::SeqCst);
    Guard(())
}

#[expect(
    clippy::exit,
    reason = "the main thread may be waiting for input and cannot be woken"
)]
fn handle() {
    let stopping = STOP.swap(true, Ordering::SeqCst);
    if stopping || !BUSY.load(Ordering::SeqCst) {
        std::process::exit(130);
    }
}

impl Guard {
    /// Whether Ctrl-C was pressed.
    pub fn stopped(&self) -> bool {
        STOP.load(Ordering::SeqCst)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        BUSY.store(false, Ordering::SeqCst);
    }
}
