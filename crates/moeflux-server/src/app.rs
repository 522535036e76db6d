//! What every request can reach, and the routes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Router, middleware};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::http::{ApiError, guard};
use crate::metrics::Metrics;
use crate::model::ServedModel;
use crate::prefix::{PrefixCache, PrefixOptions};
use crate::scheduler::{Event, Job, Limits, Scheduler};
use crate::serve::ServerError;
use crate::{anthropic, live, openai, openapi, page, responses, utilities};

/// The longest time that a client is asked to wait before it tries again, in seconds.
const LONGEST_RETRY_SECONDS: u64 = 60;

/// How a server listens and what it allows.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where to listen.
    pub address: SocketAddr,
    /// The key that requests must carry.
    pub api_key: Option<String>,
    /// Origins whose pages may ask, as `https://example.org`; `*` for all.
    pub allowed_origins: Vec<String>,
    /// How much is computed at a time and how much may wait.
    pub limits: Limits,
    /// What is kept of earlier requests; `None`: nothing.
    pub prefix: Option<PrefixOptions>,
    /// The most tokens of an answer; what a request asks for beyond is refused.
    pub max_tokens: Option<usize>,
    /// The most bytes of a request's body.
    pub body_bytes: usize,
    /// The most connections at a time.
    pub connections: usize,
    /// How long headers, and then a body, may take to arrive.
    pub read_timeout: Duration,
    /// How long a request may take from its arrival to its end.
    pub request_timeout: Duration,
    /// How often a silent stream shows that it is alive.
    pub keep_alive: Duration,
    /// How long running answers may go on when the server is stopped.
    pub grace: Duration,
}

impl ServerOptions {
    /// The defaults, listening at `address`.
    pub fn new(address: SocketAddr) -> ServerOptions {
        ServerOptions {
            address,
            api_key: None,
            allowed_origins: Vec::new(),
            limits: Limits::default(),
            prefix: None,
            max_tokens: None,
            body_bytes: 16 << 20,
            connections: 512,
            read_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(3600),
            keep_alive: Duration::from_secs(10),
            grace: Duration::from_secs(30),
        }
    }
}

/// A running server's parts.
pub struct App {
    /// What it serves.
    pub model: ServedModel,
    /// How.
    pub options: ServerOptions,
    /// Its figures.
    pub metrics: Arc<Metrics>,
    scheduler: Scheduler,
    names: AtomicU64,
    start: u64,
}

impl App {
    /// Starts the engine's thread.
    ///
    /// # Errors
    /// The system gives no thread, or the folder of the prefix cache cannot be used.
    pub fn start(model: ServedModel, options: ServerOptions) -> Result<App, ServerError> {
        let metrics = Arc::new(Metrics::default());
        let open = |prefix: &PrefixOptions| {
            let engine = Arc::clone(&model.engine);
            PrefixCache::open(
                engine,
                prefix.clone(),
                model.openings(),
                Arc::clone(&metrics),
            )
        };
        let prefix = options.prefix.as_ref().map(open).transpose()?;
        let engine = Arc::clone(&model.engine);
        let scheduler = Scheduler::start(engine, &options.limits, Arc::clone(&metrics), prefix)
            .map_err(ServerError::Start)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(App {
            model,
            options,
            metrics,
            scheduler,
            names: AtomicU64::new(0),
            start: now.map_or(0, |time| time.as_nanos() as u64),
        })
    }

    /// Hands a job to the engine, with the server's deadline.
    ///
    /// # Errors
    /// The prompt is too long, or there is no room for another request.
    pub fn submit(&self, job: Job) -> Result<UnboundedReceiver<Event>, ApiError> {
        self.submit_all(vec![job])
    }

    /// The most jobs that may wait.
    pub fn queue_limit(&self) -> usize {
        self.scheduler.queue_limit()
    }

    /// Hands several jobs of one request to the engine, all or none.
    ///
    /// # Errors
    /// As [`App::submit`].
    pub fn submit_all(&self, mut jobs: Vec<Job>) -> Result<UnboundedReceiver<Event>, ApiError> {
        let deadline = Instant::now().checked_add(self.options.request_timeout);
        for job in &mut jobs {
            self.check_length(job)?;
            job.deadline = deadline;
        }
        self.scheduler
            .submit_all(jobs)
            .map_err(|refused| ApiError::refused(refused, self.retry_after_seconds()))
    }

    fn check_length(&self, job: &Job) -> Result<(), ApiError> {
        let context = self.model.context_tokens();
        let wanted = job.max_tokens.unwrap_or(1);
        if job.prompt.len() + wanted > context {
            let message = format!(
                "the prompt has {} tokens and {wanted} are asked for, but the context holds \
                 {context} together; send a shorter prompt or ask for fewer",
                job.prompt.len()
            );
            let status = StatusCode::BAD_REQUEST;
            return Err(ApiError::new(status, "context_length_exceeded", message));
        }
        if job.prompt.is_empty() {
            let message = "the prompt is empty; send at least one token";
            return Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "empty_prompt",
                message,
            ));
        }
        Ok(())
    }

    /// When there may be room again: the time that a request takes, times those that wait for each
    /// place.
    fn retry_after_seconds(&self) -> u64 {
        let each = self.metrics.request_seconds.mean().as_secs_f64();
        let waiting = self.scheduler.queued() as f64 / self.options.limits.parallel.max(1) as f64;
        ((each * waiting / 2.0).ceil() as u64).clamp(1, LONGEST_RETRY_SECONDS)
    }

    /// Refuses new jobs from now on.
    pub fn drain(&self) {
        self.scheduler.drain();
    }

    /// Whether jobs are refused because the server is about to stop.
    pub fn is_draining(&self) -> bool {
        self.scheduler.is_draining()
    }

    /// A name that no other object of this server has.
    pub fn name(&self, prefix: &str) -> String {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        let tail = (moeflux::sampling::uniform(self.start, number) * (1_u64 << 52) as f64) as u64;
        format!("{prefix}{tail:013x}{number:07x}")
    }

    /// A seed for a request that gives none.
    pub fn seed(&self) -> u64 {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        (moeflux::sampling::uniform(!self.start, number) * (1_u64 << 52) as f64) as u64
    }

    /// Whether a request means the served model.
    ///
    /// # Errors
    /// It names another one.
    pub fn check_model(&self, name: Option<&str>) -> Result<(), ApiError> {
        match name {
            Some(name) if !self.model.names.iter().any(|n| n == name) => {
                let message = format!(
                    "the model `{name}` does not exist here; ask for `{}`",
                    self.model.names.join("` or `")
                );
                let mut error = ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message);
                error.param = Some("model".to_owned());
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

/// The time now, in seconds since 1970.
pub fn now_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |time| time.as_secs())
}

/// The paths of the API: what [`api`] answers is what [`paths`] lists.
macro_rules! paths {
    ($($method:ident $path:literal => $handler:expr,)*) => {
        /// The paths of the API, each with its method.
        pub fn paths() -> impl Iterator<Item = (&'static str, &'static str)> {
            [$((stringify!($method), $path)),*].into_iter()
        }

        fn api(router: Router<Arc<App>>) -> Router<Arc<App>> {
            router$(.route($path, $method($handler)))*
        }
    };
}

paths! {
    post "/v1/chat/completions" => openai::chat,
    post "/v1/completions" => openai::completions,
    get "/v1/models" => openai::models,
    get "/v1/models/{*name}" => openai::model,
    post "/v1/messages" => anthropic::messages,
    post "/v1/messages/count_tokens" => anthropic::count_tokens,
    post "/v1/responses" => responses::responses,
    post "/tokenize" => utilities::tokenize,
    post "/detokenize" => utilities::detokenize,
    get "/health" => utilities::health,
    get "/metrics" => utilities::metrics,
    get "/openapi.json" => openapi::openapi,
    get "/live" => live::live,
}

/// Everything that a server answers.
pub fn router(app: &Arc<App>) -> Router {
    let wrong_method = || async {
        let message = "this path does not know that method";
        ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            message,
        )
    };
    let unknown = || async {
        let message = "there is nothing at this path; the API is below /v1";
        ApiError::new(StatusCode::NOT_FOUND, "unknown_path", message)
    };
    let mut router = Router::new();
    for (path, _) in page::files() {
        router = router.route(path, get(page::file));
    }
    api(router)
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(Arc::clone(app), guard))
        .with_state(Arc::clone(app))
}
