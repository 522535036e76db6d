//! A thread that writes files, one at a time.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use moeflux::{KeyValues, RecurrentState};

use super::folder;
use super::format::Header;

/// What is written.
pub enum Content {
    Keys(Arc<KeyValues>),
    State(Arc<RecurrentState>),
}

/// A file to be written.
pub struct Order {
    pub path: PathBuf,
    pub header: Header,
    pub content: Content,
}

impl Order {
    fn write(&self) -> std::io::Result<()> {
        folder::write(&self.path, &self.header, &mut |out| match &self.content {
            Content::Keys(keys) => keys.write_to(out),
            Content::State(state) => state.write_to(out),
        })
    }
}

/// Told how a file went.
pub type Done = Box<dyn Fn(std::io::Result<()>) + Send>;

/// The thread; when this is dropped, it ends after the file that it is writing.
pub struct Writer {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts it; `done` is told of every file.
    pub fn start(done: Done) -> std::io::Result<Writer> {
        let (orders, received) = mpsc::channel::<Order>();
        let write = move || {
            for order in received {
                done(order.write());
            }
        };
        let thread = std::thread::Builder::new().name("moeflux-prefix".to_owned());
        Ok(Writer {
            orders: Some(orders),
            thread: Some(thread.spawn(write)?),
        })
    }

    /// Has a file written; false if the thread is gone.
    pub fn write(&self, order: Order) -> bool {
        self.orders
            .as_ref()
            .is_some_and(|orders| orders.send(order).is_ok())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // It cannot fail but by a defect, and then there is nothing left to write.
            let _ = thread.join();
        }
    }
}
