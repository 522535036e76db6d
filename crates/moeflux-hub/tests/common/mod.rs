//! A hub on this machine, with a repository, faults, and a list of what was asked of it.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit of every repository.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the hub does to those who ask.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Connections that end after so many bytes of a body, of files; then no more do.
    pub drops: Vec<usize>,
    /// Answers with a status instead of a file; then no more.
    pub statuses: Vec<u16>,
    /// Sends so many bytes more than a file has.
    pub longer: usize,
    /// Changes the first byte of so many files that are sent.
    pub corrupt: usize,
    /// Knows no ranges.
    pub no_ranges: bool,
    /// Wants this token.
    pub token: Option<String>,
    /// Sends large files from another address, which must not see the token.
    pub redirect: Option<String>,
    /// Files on a page of the listing.
    pub page: Option<usize>,
}

/// A running hub; it ends with the test's process.
pub struct Hub {
    pub address: String,
    pub faults: Arc<Mutex<Faults>>,
    /// Paths with the first byte of the range that was asked for, and whether with a token.
    pub requests: Arc<Mutex<Vec<(String, u64, bool)>>>,
}

/// Files by name, and which of them are large.
pub type Files = BTreeMap<String, (Vec<u8>, bool)>;

impl Hub {
    /// Starts a hub that has `files` in the repository `owner/name`.
    pub fn start(files: Files, faults: Faults) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = format!(
            "http://{}",
            listener.local_addr().expect("it has an address")
        );
        let hub = Hub {
            address,
            faults: Arc::new(Mutex::new(faults)),
            requests: Arc::default(),
        };
        let (faults, requests) = (Arc::clone(&hub.faults), Arc::clone(&hub.requests));
        let (files, address) = (Arc::new(files), hub.address.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = Serving {
                    files: Arc::clone(&files),
                    faults: Arc::clone(&faults),
                    requests: Arc::clone(&requests),
                    address: address.clone(),
                };
                thread::spawn(move || serving.answer(stream));
            }
        });
        hub
    }

    /// What was asked for so far.
    pub fn asked(&self) -> Vec<(String, u64, bool)> {
        self.requests.lock().expect("no test panicked").clone()
    }
}

struct Serving {
    files: Arc<Files>,
    faults: Arc<Mutex<Faults>>,
    requests: Arc<Mutex<Vec<(String, u64, bool)>>>,
    address: String,
}

impl Serving {
    fn answer(&self, stream: TcpStream) {
        let mut reader = BufReader::new(&stream);
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut from, mut token) = (0, None);
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) == 0 || header.trim().is_empty() {
                break;
            }
            let (name, value) = header.split_once(':').unwrap_or_default();
            let value = value.trim();
            match name.to_lowercase().as_str() {
                "range" => {
                    let start = value.trim_start_matches("bytes=").trim_end_matches('-');
                    from = start.parse().expect("a range from a byte on");
                }
                "authorization" => token = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut requests = self.requests.lock().expect("no thread panicked");
        requests.push((path.clone(), from, token.is_some()));
        drop(requests);
        let faults = self.faults.lock().expect("no thread panicked").clone();
        let wanted = faults.token.as_ref().map(|token| format!("Bearer {token}"));
        if wanted.is_some() && token != wanted && !path.starts_with("/cdn/") {
            return send(&stream, 401, "", b"");
        }
        if let Some(rest) = path.strip_prefix("/api/models/owner/name/") {
            return self.api(&stream, rest, &faults);
        }
        let start = format!("/owner/name/resolve/{COMMIT}/");
        let file = path
            .strip_prefix(&start)
            .or_else(|| path.strip_prefix("/cdn/"));
        let name = file.unwrap_or_default().replace("%20", " ");
        match self.files.get(&name) {
            None => send(&stream, 404, "", b""),
            Some((_, true)) if faults.redirect.is_some() && !path.starts_with("/cdn/") => {
                let place = faults.redirect.unwrap_or_default();
                let header = format!("Location: {place}/cdn/{name}\r\n");
                send(&stream, 302, &header, b"");
            }
            Some((bytes, _)) => self.file(&stream, bytes, from as usize),
        }
    }

    fn api(&self, stream: &TcpStream, path: &str, faults: &Faults) {
        if path == "revision/main" {
            let body = json!({ "sha": COMMIT }).to_string();
            return send(stream, 200, "", body.as_bytes());
        }
        let Some(query) = path.strip_prefix(&format!("tree/{COMMIT}?recursive=true")) else {
            return send(stream, 404, "", b"");
        };
        let first: usize = query
            .strip_prefix("&cursor=")
            .map_or(0, |n| n.parse().unwrap_or(0));
        let page = faults.page.unwrap_or(1000);
        let items: Vec<Value> = self.files.iter().skip(first).take(page).map(item).collect();
        let next = first + page;
        let header = match next < self.files.len() {
            true => format!(
                "Link: <{}/api/models/owner/name/tree/{COMMIT}?recursive=true&cursor={next}>; \
                 rel=\"next\"\r\n",
                self.address
            ),
            false => String::new(),
        };
        send(
            stream,
            200,
            &header,
            Value::Array(items).to_string().as_bytes(),
        );
    }

    fn file(&self, mut stream: &TcpStream, bytes: &[u8], from: usize) {
        let mut faults = self.faults.lock().expect("no thread panicked");
        if !faults.statuses.is_empty() {
            let status = faults.statuses.remove(0);
            drop(faults);
            return send(stream, status, "", b"");
        }
        let mut bytes = bytes.to_vec();
        if faults.corrupt > 0 && from == 0 {
            faults.corrupt -= 1;
            bytes[0] ^= 1;
        }
        bytes.resize(bytes.len() + faults.longer, 7);
        let from = if faults.no_ranges { 0 } else { from };
        let body = &bytes[from.min(bytes.len())..];
        let dropped = match faults.drops.is_empty() {
            true => None,
            false => Some(faults.drops.remove(0)),
        };
        drop(faults);
        let (status, range) = match from {
            0 => (200, String::new()),
            _ => {
                let (last, all) = (bytes.len() - 1, bytes.len());
                (206, format!("Content-Range: bytes {from}-{last}/{all}\r\n"))
            }
        };
        let head = head(status, &range, body.len());
        let sent = dropped.unwrap_or(body.len()).min(body.len());
        // Who went away while being answered is no matter.
        let _ = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(&body[..sent]));
    }
}

fn item((name, (bytes, large)): (&String, &(Vec<u8>, bool))) -> Value {
    let digits = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut git = Sha1::new();
    git.update(format!("blob {}\0", bytes.len()));
    git.update(bytes);
    let oid = digits(&git.finalize());
    match large {
        false => json!({"type": "file", "path": name, "size": bytes.len(), "oid": oid}),
        true => json!({
            "type": "file", "path": name, "size": bytes.len(), "oid": "00",
            "lfs": {"oid": digits(&Sha256::digest(bytes)), "size": bytes.len(), "pointerSize": 135},
        }),
    }
}

fn head(status: u16, headers: &str, length: usize) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n")
}

fn send(mut stream: &TcpStream, status: u16, headers: &str, body: &[u8]) {
    let head = head(status, headers, body.len());
    // Who went away while being answered is no matter.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body));
}
