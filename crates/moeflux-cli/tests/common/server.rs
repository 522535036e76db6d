//! A server as a process, and requests to it. Each test file uses some of this.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::panic, reason = "a failed test panics")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::common::command;

pub const CHAT: &str = "/v1/chat/completions";

/// A chat of one question.
pub fn question(text: &str) -> Value {
    json!({"model": "demo", "messages": [{"role": "user", "content": text}]})
}

/// A body with the members of `more`.
pub fn with(mut body: Value, more: Value) -> Value {
    let Value::Object(more) = more else {
        unreachable!("an object");
    };
    body.as_object_mut().unwrap().extend(more);
    body
}

/// A running `moeflux serve`; it ends when this is dropped.
pub struct Server {
    pub child: Child,
    pub address: String,
    agent: ureq::Agent,
}

impl Server {
    /// Starts a server of the demo model at a free port.
    pub fn start(flags: &[&str]) -> Server {
        let mut arguments = vec!["serve", "--port", "0", "--memory", "1GiB", "--no-warm"];
        arguments.extend(flags);
        Server::spawn(command(&arguments))
    }

    /// Runs a command that is a server.
    pub fn spawn(mut command: Command) -> Server {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, rest) = line.split_once("http://")?;
            Some(rest.split('/').next()?.to_owned())
        });
        // What else it says must not fill the pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(120)))
            .build();
        Server {
            child,
            address: address.unwrap(),
            agent: agent.into(),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The answer to a GET, as text.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut response = self.agent.get(self.url(path)).call().unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), text)
    }

    /// The answer to a POST of JSON.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let mut response = self.agent.post(self.url(path)).send_json(body).unwrap();
        let status = response.status().as_u16();
        (status, response.body_mut().read_json().unwrap())
    }

    /// The answer to a POST that must succeed.
    #[track_caller]
    pub fn ask(&self, path: &str, body: &Value) -> Value {
        let (status, reply) = self.post(path, body);
        assert_eq!(status, 200, "{reply}");
        reply
    }

    /// The data of all events of a streamed answer.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut response = self.agent.post(self.url(path)).send_json(body).unwrap();
        assert_eq!(response.status().as_u16(), 200);
        let text = response.body_mut().read_to_string().unwrap();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }

    /// What comes back for bytes sent as they are, until the server closes the connection.
    pub fn raw(&self, request: &str) -> String {
        let mut connection = self.connect();
        connection.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        // A refused request may also be answered by closing the connection.
        let _ = connection.read_to_string(&mut text);
        text
    }

    /// A connection.
    pub fn connect(&self) -> TcpStream {
        let connection = TcpStream::connect(&self.address).unwrap();
        let limit = Some(Duration::from_secs(120));
        connection.set_read_timeout(limit).unwrap();
        connection
    }

    /// One of the figures.
    pub fn metric(&self, name: &str) -> f64 {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    }

    /// Waits until a figure has a value, which it must reach.
    #[track_caller]
    pub fn wait_for(&self, name: &str, value: f64) {
        self.wait_until(name, |server| server.metric(name) == value);
    }

    /// Waits until something is so, which it must become; otherwise the test fails with `what`.
    #[track_caller]
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&Server) -> bool) {
        for _ in 0..600 {
            if is_so(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(is_so(self), "{what}");
    }

    /// Stops it as a service manager does, and waits for its end.
    #[cfg(unix)]
    pub fn stop(mut self) {
        let id = self.child.id().to_string();
        let sent = std::process::Command::new("kill").arg(id).status().unwrap();
        assert!(sent.success() && self.child.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
