//! Connections: a bounded number of them, each with limits on headers and their time.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::app::ServerOptions;

/// Bytes of a request's line and headers.
const HEADER_BYTES: usize = 64 * 1024;
/// How long to wait when no connection can be accepted, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves connections until `stop`, then waits for what runs, at most `grace`.
pub async fn accept(
    listener: TcpListener,
    router: Router,
    options: &ServerOptions,
    stop: impl Future<Output = ()>,
    on_stop: impl FnOnce(),
) {
    let places = Arc::new(Semaphore::new(options.connections));
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        // Waiting here leaves further connections to the system's own queue.
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        let Ok((connection, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Tokens are small and should leave at once; it works without, too.
        let _ = connection.set_nodelay(true);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(options.read_timeout)
            .max_buf_size(HEADER_BYTES)
            .keep_alive(true);
        let service = TowerToHyperService::new(router.clone());
        let served = http.serve_connection(TokioIo::new(connection), service);
        let served = graceful.watch(served);
        tokio::spawn(async move {
            // An error is the client's: it went away, or what it sent is not HTTP.
            let _ = served.await;
            drop(place);
        });
    }
    drop(listener);
    on_stop();
    let _ = tokio::time::timeout(options.grace, graceful.shutdown()).await;
}
