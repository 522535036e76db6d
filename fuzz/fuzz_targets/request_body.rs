//! Any bytes as a request's body: an answer, or an error that blames the request.
#![no_main]

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use moeflux::text::TextFiles;
use moeflux::{Engine, EngineOptions};
use moeflux_server::{App, ServedModel, ServerOptions, router};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

/// The first byte of the input chooses one.
const PATHS: [&str; 7] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
];

fn server() -> &'static (Runtime, Router) {
    static SERVER: OnceLock<(Runtime, Router)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
        let options = EngineOptions {
            memory_bytes: Some(512 << 20),
            measure_disk: false,
            threads: Some(1),
            ..EngineOptions::default()
        };
        let engine = Engine::open(&demo, &options).expect("the demo model opens");
        let files = TextFiles::open(&demo).expect("it has text files");
        let tokenizer = files.tokenizer().expect("a tokenizer");
        let generation = files.generation_config(&tokenizer).expect("its end");
        let template = files.chat_template().ok();
        let names = vec!["demo".to_owned()];
        let model = ServedModel::new(names, engine, tokenizer, template, generation);
        let address = "127.0.0.1:0".parse().expect("an address");
        let mut options = ServerOptions::new(address);
        options.max_tokens = Some(3);
        options.request_timeout = Duration::from_secs(20);
        let app = App::start(model, options).expect("a thread");
        let runtime = Runtime::new().expect("a runtime");
        (runtime, router(&Arc::new(app)))
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else {
        return;
    };
    let (runtime, routes) = server();
    let request = Request::post(PATHS[usize::from(*choice) % PATHS.len()])
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Body::from(body.to_vec()))
        .expect("a request");
    runtime.block_on(async {
        let reply = routes.clone().oneshot(request).await.expect("it never fails");
        assert!(reply.status().as_u16() < 500, "{reply:?}");
        let text = reply.into_body().collect().await.expect("it ends").to_bytes();
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains("engine_error") && !text.contains("server_error"), "{text}");
    });
});
