//! Requests to a running server, whose answers can be left at any time.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::failure::Failure;
use crate::interrupt::Guard;

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often Ctrl-C is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(30);
/// The most bytes of a reply that is read whole, and of a line of a stream.
const MOST_BYTES: usize = 16 << 20;

/// Where a server is and the key it asks for.
pub struct Server {
    /// As the user wrote it.
    url: String,
    /// Host and port.
    authority: String,
    /// What comes before `/v1`.
    base: String,
    key: Option<String>,
}

impl Server {
    /// A server at `url`, such as `http://127.0.0.1:8080`, with or without `/v1` at its end.
    pub fn new(url: &str, key: Option<&str>) -> Result<Server, Failure> {
        let wrong = |problem: &str| Failure::Usage(format!("--server {url}: {problem}"));
        let parsed: Uri = url
            .parse()
            .map_err(|_| wrong("write it as http://127.0.0.1:8080"))?;
        match parsed.scheme_str() {
            Some("http") => {}
            Some("https") => {
                let problem =
                    "https is not spoken here; give the http address, or that of a tunnel";
                return Err(wrong(problem));
            }
            _ => return Err(wrong("write it as http://127.0.0.1:8080")),
        }
        let authority = parsed.authority().filter(|a| !a.host().is_empty());
        let authority = authority.ok_or_else(|| wrong("it names no host"))?;
        let port = authority.port_u16().unwrap_or(80);
        let path = parsed.path().trim_end_matches('/');
        Ok(Server {
            url: url.to_owned(),
            authority: format!("{}:{port}", authority.host()),
            base: path.strip_suffix("/v1").unwrap_or(path).to_owned(),
            key: key.map(str::to_owned),
        })
    }

    /// As the user wrote it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What went wrong with this server.
    pub fn failure(&self, problem: impl Into<String>) -> Failure {
        Failure::Remote {
            server: self.url.clone(),
            problem: problem.into(),
        }
    }

    /// Asks, and gives the reply once its head is there; `None` after Ctrl-C.
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    pub async fn ask(
        &self,
        path: &str,
        body: Option<&Value>,
        guard: &Guard,
    ) -> Result<Option<Reply<'_>>, Failure> {
        let asking = async {
            let connecting = TcpStream::connect(&self.authority);
            let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
            let connection = connection
                .map_err(|_| self.failure("the connection takes too long; is it the address?"))?
                .map_err(|e| self.failure(format!("{e}; start it with moeflux serve")))?;
            let (mut sender, driver) =
                hyper::client::conn::http1::handshake(TokioIo::new(connection))
                    .await
                    .map_err(|e| self.failure(e.to_string()))?;
            // It ends with the reply, whose own errors tell more.
            tokio::spawn(async move { driver.await.ok() });
            let sent = sender.send_request(self.request(path, body)?).await;
            sent.map_err(|e| self.failure(format!("no reply: {e}")))
        };
        let Some(response) = or_stopped(asking, guard).await else {
            return Ok(None);
        };
        let reply = Reply {
            server: self,
            response: response?,
            held: Vec::new(),
        };
        if reply.response.status().is_success() {
            return Ok(Some(reply));
        }
        Err(reply.refusal(guard).await)
    }

    fn request(&self, path: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, Failure> {
        let method = body.map_or(Method::GET, |_| Method::POST);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        let body = body.map_or(String::new(), Value::to_string);
        let request = request.body(Full::new(Bytes::from(body)));
        request.map_err(|e| Failure::Usage(format!("the request to {} is wrong: {e}", self.url)))
    }
}

/// A reply as it comes. Dropping it closes the connection, and the server stops answering.
pub struct Reply<'s> {
    server: &'s Server,
    response: Response<Incoming>,
    /// What has come of the next line.
    held: Vec<u8>,
}

impl Reply<'_> {
    /// The whole reply as JSON; `None` after Ctrl-C.
    pub async fn json(mut self, guard: &Guard) -> Result<Option<Value>, Failure> {
        let mut all = Vec::new();
        loop {
            match or_stopped(self.more(), guard).await {
                None => return Ok(None),
                Some(Ok(Some(bytes))) => all.extend_from_slice(&bytes),
                Some(Ok(None)) => break,
                Some(Err(failure)) => return Err(failure),
            }
            if all.len() > MOST_BYTES {
                return Err(self.server.failure("the reply is too long"));
            }
        }
        let value = serde_json::from_slice(&all);
        let value = value.map_err(|_| self.server.failure("the reply is not moeflux's"));
        value.map(Some)
    }

    /// The data of the next event; `None` at the end, or after Ctrl-C.
    pub async fn event(&mut self, guard: &Guard) -> Result<Option<String>, Failure> {
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                match line.trim_end().strip_prefix("data: ") {
                    Some(data) => return Ok(Some(data.to_owned())),
                    None => continue,
                }
            }
            if self.held.len() > MOST_BYTES {
                return Err(self.server.failure("a line of the reply is too long"));
            }
            match or_stopped(self.more(), guard).await {
                None => return Ok(None),
                Some(more) => match more? {
                    Some(bytes) => self.held.extend_from_slice(&bytes),
                    None => return Ok(None),
                },
            }
        }
    }

    async fn more(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            return match self.response.frame().await {
                None => Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => Ok(Some(bytes)),
                    // Trailers say nothing here.
                    Err(_) => continue,
                },
                Some(Err(error)) => {
                    let problem = format!("the answer broke off: {error}");
                    Err(self.server.failure(problem))
                }
            };
        }
    }

    /// What the server says instead of an answer.
    async fn refusal(self, guard: &Guard) -> Failure {
        let (server, status) = (self.server, self.response.status());
        let wait = self.response.headers().get(RETRY_AFTER);
        let wait = wait.and_then(|seconds| seconds.to_str().ok());
        let wait = wait.map_or(String::new(), |s| format!(" (try again in {s} s)"));
        let words = match self.json(guard).await {
            Ok(body) => body.and_then(|b| b["error"]["message"].as_str().map(str::to_owned)),
            Err(_) => None,
        };
        let words = words.unwrap_or_else(|| format!("it answers with status {status}"));
        let key = match status.as_u16() {
            401 => "; give its key with --api-key-file or MOEFLUX_API_KEY",
            _ => "",
        };
        server.failure(format!("{words}{wait}{key}"))
    }
}

/// What a future gives, unless Ctrl-C comes first.
async fn or_stopped<T>(future: impl Future<Output = T>, guard: &Guard) -> Option<T> {
    let mut future = std::pin::pin!(future);
    // Looked at first: pieces may come faster than a pause ends.
    while !guard.stopped() {
        tokio::select! {
            done = &mut future => return Some(done),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::Server;

    #[test]
    fn addresses_are_understood() {
        for (url, authority, base) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", ""),
            ("http://localhost/v1/", "localhost:80", ""),
            ("http://[::1]:9/models/v1", "[::1]:9", "/models"),
        ] {
            let server = Server::new(url, None);
            let found = server.map(|s| (s.authority, s.base)).ok();
            assert_eq!(
                found,
                Some((authority.to_owned(), base.to_owned())),
                "{url}"
            );
        }
        for url in [
            "127.0.0.1:8080",
            "https://example.org",
            "http://",
            "ftp://x",
            "",
        ] {
            let message = Server::new(url, None).err().map(|e| e.to_string());
            assert!(message.is_some_and(|m| m.contains("--server")), "{url}");
        }
    }
}
