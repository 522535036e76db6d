//! `moeflux serve`: an HTTP server for clients of OpenAI and Anthropic.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use moeflux::MemoryPlan;
use moeflux::draft::Speculate;
use moeflux_server::{Limits, PrefixOptions, ServedModel, ServerError, ServerOptions};

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::key;
use crate::model::{self, Model};
use crate::output;
use crate::size;

/// The most memory for the state of earlier requests that is taken unasked.
const MOST_PREFIX_BYTES: u64 = 16 << 30;

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen at; 0.0.0.0 or :: for other machines too
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen at; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The key that requests must carry; others can see it in the list of processes
    #[arg(long, value_name = "KEY", conflicts_with = "api_key_file")]
    api_key: Option<String>,
    /// A file that holds the key [default: $MOEFLUX_API_KEY]
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Let other machines ask without a key
    #[arg(long, conflicts_with_all = ["api_key", "api_key_file"])]
    no_api_key: bool,
    /// Let pages of this origin ask, as https://example.org, or * for all, which needs a key; can be
    /// given several times
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// A name under which clients ask for the model, instead of its own; can be given several times
    #[arg(long, value_name = "NAME")]
    served_name: Vec<String>,
    /// Answers computed at the same time
    #[arg(long, value_name = "N", default_value_t = 8)]
    parallel: usize,
    /// Requests that may wait for that; further ones are refused
    #[arg(long, value_name = "N", default_value_t = 128)]
    queue: usize,
    /// Guess tokens of an answer that runs alone and check several in one step: auto (while it
    /// pays), off or always; the answer is the same
    #[arg(long, default_value = "auto", value_name = "WHEN")]
    speculate: Speculate,
    /// Memory for the state of earlier requests, so that what prompts have in common is computed
    /// once; 0 for none [default: a sixteenth of the memory bound or half of what experts leave, at
    /// most 16GiB]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    prefix_cache: Option<u64>,
    /// A folder for that state too, which outlives the server; what people wrote is in it
    #[arg(long, value_name = "DIR")]
    prefix_cache_dir: Option<PathBuf>,
    /// Most bytes in that folder
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = size::parse,
        default_value = "16GiB",
        requires = "prefix_cache_dir"
    )]
    prefix_cache_disk: u64,
    /// Most tokens of an answer [default: what the context holds]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Most bytes of a request
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "16MiB")]
    max_body: u64,
    /// Most connections at a time
    #[arg(long, value_name = "N", default_value_t = 512)]
    connections: usize,
    /// Seconds that a request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    request_timeout: u64,
    /// Seconds for a request's headers, and for its body, to arrive
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    read_timeout: u64,
    /// Seconds that running answers may go on when the server is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace: u64,
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the command.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let mut options = args.options()?;
    let Model {
        dir,
        engine,
        tokenizer,
        template,
        generation,
    } = Model::open(&args.model)?;
    options.prefix = args.prefix(&engine.stats().memory)?;
    let names = match args.served_name.is_empty() {
        true => vec![model::name(&dir)],
        false => args.served_name.clone(),
    };
    let served = ServedModel::new(names, engine, tokenizer, template, generation);
    let ready = |address: SocketAddr| {
        output::note(&format!("{} at http://{address}/v1", dir.display()));
    };
    moeflux_server::serve(served, options, ready).map_err(Failure::from)
}

impl ServeArgs {
    fn options(&self) -> Result<ServerOptions, Failure> {
        for (flag, value) in [
            ("--parallel", self.parallel),
            ("--queue", self.queue),
            ("--connections", self.connections),
            ("--max-tokens", self.max_tokens.unwrap_or(1)),
        ] {
            if value == 0 {
                return Err(Failure::Usage(format!("{flag} must be at least 1")));
            }
        }
        let mut options = ServerOptions::new(SocketAddr::new(self.host, self.port));
        options.api_key = key::given(self.api_key.as_deref(), self.api_key_file.as_deref())?;
        if options.api_key.is_none() && !self.no_api_key && !self.host.is_loopback() {
            return Err(ServerError::Open(options.address).into());
        }
        for origin in &self.allow_origin {
            check_origin(origin, options.api_key.is_some())?;
        }
        options.allowed_origins.clone_from(&self.allow_origin);
        options.limits = Limits {
            parallel: self.parallel,
            queue: self.queue,
            speculate: self.speculate,
            ..Limits::default()
        };
        options.max_tokens = self.max_tokens;
        options.body_bytes = usize::try_from(self.max_body).unwrap_or(usize::MAX);
        options.connections = self.connections;
        options.request_timeout = Duration::from_secs(self.request_timeout);
        options.read_timeout = Duration::from_secs(self.read_timeout);
        options.grace = Duration::from_secs(self.grace);
        Ok(options)
    }

    /// What is kept of earlier requests.
    fn prefix(&self, plan: &MemoryPlan) -> Result<Option<PrefixOptions>, Failure> {
        let default = (plan.limit_bytes / 16).max(plan.spare_bytes() / 2);
        let default = default.min(MOST_PREFIX_BYTES);
        let memory_bytes = self.prefix_cache.unwrap_or(default);
        if memory_bytes == 0 {
            return match &self.prefix_cache_dir {
                None => Ok(None),
                Some(_) => Err(Failure::Usage(
                    "--prefix-cache-dir needs memory for what it reads; give --prefix-cache more \
                     than 0"
                        .to_owned(),
                )),
            };
        }
        Ok(Some(PrefixOptions {
            memory_bytes,
            folder: self.prefix_cache_dir.clone(),
            folder_bytes: self.prefix_cache_disk,
            report: output::note,
        }))
    }
}

/// An origin as browsers send it: a scheme and a host, without anything behind.
fn check_origin(origin: &str, has_key: bool) -> Result<(), Failure> {
    let wrong = |problem: &str| Failure::Usage(format!("--allow-origin {origin}: {problem}"));
    if origin == "*" {
        let problem = "lets every page that you visit ask; give --api-key-file FILE too";
        return has_key.then_some(()).ok_or_else(|| wrong(problem));
    }
    let site = origin.split_once("://").map_or("", |(_, site)| site);
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '*' | '@' | '?' | '#');
    match !site.is_empty() && site.chars().all(is_plain) && origin.is_ascii() {
        true => Ok(()),
        false => Err(wrong("write it as https://example.org, or with a port")),
    }
}
