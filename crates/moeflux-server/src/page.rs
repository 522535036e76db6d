//! The page: files that are part of the program.

use axum::http::header;
use axum::response::IntoResponse;

/// What a browser may do with the page: run its own script, and ask this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// A file of the page.
struct File {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

const FILES: [File; 4] = [
    File {
        path: "/",
        kind: "text/html; charset=utf-8",
        bytes: include_bytes!("../page/index.html"),
    },
    File {
        path: "/page.js",
        kind: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../page/page.js"),
    },
    File {
        path: "/page.css",
        kind: "text/css; charset=utf-8",
        bytes: include_bytes!("../page/page.css"),
    },
    File {
        path: "/icon.svg",
        kind: "image/svg+xml",
        bytes: include_bytes!("../page/icon.svg"),
    },
];

/// The paths of the page's files, and what they are.
pub fn files() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().map(|file| (file.path, file.kind))
}

/// Whether a path is one of the page's files, which everybody who reaches the server may have: the
/// page asks for the key that all else needs.
pub fn is_file(path: &str) -> bool {
    files().any(|(file, _)| file == path)
}

/// `GET` of a file of the page.
pub async fn file(uri: axum::http::Uri) -> impl IntoResponse {
    let file = FILES.iter().find(|file| file.path == uri.path());
    let (kind, bytes) = file.map_or(("text/plain", &b""[..]), |file| (file.kind, file.bytes));
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, bytes)
}
