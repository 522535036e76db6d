//! Running a server until it is told to stop.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::app::{App, ServerOptions, router};
use crate::http::accept;
use crate::model::ServedModel;
use crate::prefix::FolderError;

/// Threads for connections; the engine has its own.
const WORKERS: usize = 2;

/// Why a server could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {source}; choose another --host or --port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The system gives no threads, or no signals.
    #[error("cannot start the server: {0}")]
    Start(std::io::Error),
    /// The folder for kept state cannot be used.
    #[error(transparent)]
    PrefixCache(#[from] FolderError),
    /// Anybody could ask, and nothing says that this is meant.
    #[error(
        "{0} can be reached by other machines; give --api-key-file FILE or --api-key KEY, or \
         --no-api-key if everybody may use this server"
    )]
    Open(SocketAddr),
}

/// Serves a model until the process is told to stop (SIGINT or SIGTERM); answers that are running
/// then may go on for the time that the options give, and a second signal ends them. `ready` is
/// told the address.
///
/// # Errors
/// The address is taken, or the system refuses threads.
pub fn serve(
    model: ServedModel,
    options: ServerOptions,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("moeflux-http")
        .enable_all()
        .build()
        .map_err(ServerError::Start)?;
    let result = runtime.block_on(run(model, options, ready));
    // Streams that nobody reads any more need not be waited for.
    runtime.shutdown_background();
    result
}

async fn run(
    model: ServedModel,
    options: ServerOptions,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServerError> {
    let address = options.address;
    let listen = |source| ServerError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let local = listener.local_addr().map_err(listen)?;
    let app = Arc::new(App::start(model, options)?);
    let (mut first, mut second) = (Signals::new()?, Signals::new()?);
    ready(local);
    let drained = Arc::clone(&app);
    let stop = async move { first.next().await };
    let serving = accept(listener, router(&app), &app.options, stop, move || {
        drained.drain()
    });
    let ended_at_once = async {
        second.next().await;
        second.next().await;
    };
    tokio::select! {
        () = serving => {}
        () = ended_at_once => {}
    }
    Ok(())
}

/// Requests to stop.
struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> Result<Signals, ServerError> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).map_err(ServerError::Start)?,
            terminate: signal(SignalKind::terminate()).map_err(ServerError::Start)?,
        })
    }

    #[cfg(not(unix))]
    fn new() -> Result<Signals, ServerError> {
        Ok(Signals {})
    }

    #[cfg(unix)]
    fn next(&mut self) -> impl Future<Output = ()> {
        let (interrupt, terminate) = (&mut self.interrupt, &mut self.terminate);
        async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
    }

    #[cfg(not(unix))]
    fn next(&mut self) -> impl Future<Output = ()> {
        async {
            // Without it the process is ended by the system, which is what remains.
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
