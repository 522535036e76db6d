//! Server-sent events.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Frames that may wait for the client to take them.
const WAITING_FRAMES: usize = 64;
/// How long a client may take for a frame before it counts as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a stream's frames go.
pub struct Frames {
    sender: mpsc::Sender<Result<Bytes, Infallible>>,
}

/// The client is gone.
#[derive(Debug)]
pub struct Gone;

impl Frames {
    /// Sends an object as data, with the event's name if it has one.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn send(&self, event: Option<&str>, data: &Value) -> Result<(), Gone> {
        let name = event.map_or(String::new(), |name| format!("event: {name}\n"));
        self.raw(format!("{name}data: {data}\n\n")).await
    }

    /// Sends text as it is.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn raw(&self, text: String) -> Result<(), Gone> {
        let sent = self.sender.send(Ok(Bytes::from(text)));
        match tokio::time::timeout(WRITE_TIMEOUT, sent).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }

    /// Waits for `future`, sending `keep_alive` whenever that takes as long as `every`.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn meanwhile<T>(
        &self,
        future: impl Future<Output = T>,
        every: Duration,
        keep_alive: &str,
    ) -> Result<T, Gone> {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                done = &mut future => return Ok(done),
                () = self.sender.closed() => return Err(Gone),
                () = tokio::time::sleep(every) => self.raw(keep_alive.to_owned()).await?,
            }
        }
    }
}

/// A response whose frames `write` sends. When the client goes, `write` ends at the next frame.
pub fn stream<F>(write: impl FnOnce(Frames) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(WAITING_FRAMES);
    let writing = write(Frames { sender });
    tokio::spawn(async move {
        // Nobody is left to tell.
        let _ = writing.await;
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let body = Body::from_stream(ReceiverStream::new(receiver));
    (headers, body).into_response()
}
