//! Requests to a hub.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body};

use crate::HubError;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// A connection or a read that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest answer that is no file.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// Where the hub is, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// The token that is sent to the hub, and to nobody else.
    pub token: Option<String>,
    /// A file of certificates that servers are believed by, in PEM; `None`: Mozilla's.
    pub certificates: Option<PathBuf>,
}

impl Access {
    /// As the hub's own tools have it: `HF_ENDPOINT`, and the token in `HF_TOKEN`, in the file
    /// that `HF_TOKEN_PATH` names, or in `token` under `HF_HOME` or `~/.cache/huggingface`;
    /// certificates in `SSL_CERT_FILE`.
    #[must_use]
    pub fn from_environment() -> Self {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let home = || env::home_dir().map(|home| home.join(".cache/huggingface"));
        let stored = set("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| {
            let folder = set("HF_HOME").map(PathBuf::from).or_else(home)?;
            Some(folder.join("token"))
        });
        // Without a token the hub says whether one is needed.
        let read = || std::fs::read_to_string(stored?).ok();
        let token = set("HF_TOKEN").or_else(read);
        let token = token.map(|token| token.trim().to_owned());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.filter(|token| !token.is_empty()),
            certificates: set("SSL_CERT_FILE").map(PathBuf::from),
        }
    }
}

/// Connections to a hub.
pub(crate) struct Client {
    agent: Agent,
    access: Access,
}

/// Why a request did not bring an answer that can be used.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It may work when it is repeated.
    Passing(String),
    /// It will not.
    Lasting(HubError),
}

impl Client {
    pub(crate) fn new(access: &Access) -> Result<Self, HubError> {
        let rest = ["https://", "http://"].map(|scheme| access.endpoint.strip_prefix(scheme));
        if rest.into_iter().flatten().all(str::is_empty) {
            return Err(HubError::Endpoint(access.endpoint.clone()));
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .user_agent(concat!("moeflux/", env!("CARGO_PKG_VERSION")));
        if can_encrypt() {
            let provider = Arc::new(rustls_graviola::default_provider());
            let tls = TlsConfig::builder()
                .provider(TlsProvider::Rustls)
                .root_certs(roots(access)?)
                .unversioned_rustls_crypto_provider(provider);
            config = config.tls_config(tls.build());
        } else if access.endpoint.starts_with("https:") {
            return Err(HubError::NoEncryption);
        }
        Ok(Self {
            agent: config.build().into(),
            access: access.clone(),
        })
    }

    /// The hub's own address.
    pub(crate) fn endpoint(&self) -> &str {
        &self.access.endpoint
    }

    /// The address of something on the hub.
    pub(crate) fn address(&self, path: &str) -> String {
        format!("{}/{path}", self.access.endpoint)
    }

    /// Asks for `url`, from byte `from` on if that is not 0.
    pub(crate) fn get(&self, url: &str, from: u64) -> Result<Response<Body>, Refusal> {
        let mut request = self.agent.get(url);
        // Lists of pages come from the hub; it may name no other place.
        let own = url.strip_prefix(&self.access.endpoint);
        if let Some(token) = &self.access.token
            && own.is_some_and(|rest| rest.starts_with('/'))
        {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        // Lengths are those of the files only where nothing is compressed.
        let request = request.header("Accept-Encoding", "identity");
        let response = request
            .call()
            .map_err(|e| Refusal::Passing(e.to_string()))?;
        let status = response.status().as_u16();
        let url = || url.to_owned();
        match status {
            200 | 206 => Ok(response),
            401 | 403 => Err(Refusal::Lasting(HubError::Access { url: url(), status })),
            404 | 410 => Err(Refusal::Lasting(HubError::NotFound { url: url() })),
            408 | 425 | 429 | 500..=599 => Err(Refusal::Passing(format!("status {status}"))),
            _ => Err(Refusal::Lasting(HubError::Answer {
                url: url(),
                problem: format!("the server answers with the status {status}"),
            })),
        }
    }

    /// An answer in JSON, and the address of the next page of it, if there is one.
    pub(crate) fn json<T: DeserializeOwned>(
        &self,
        url: &str,
    ) -> Result<(T, Option<String>), Refusal> {
        let mut response = self.get(url, 0)?;
        let next = response
            .headers()
            .get("link")
            .and_then(|link| link.to_str().ok());
        let next = next.and_then(next_page);
        let body = response.body_mut().with_config().limit(MAX_JSON_BYTES);
        let text = body.read_to_string();
        let text = text.map_err(|error| Refusal::Passing(error.to_string()))?;
        let value = serde_json::from_str(&text).map_err(|error| {
            Refusal::Lasting(HubError::Answer {
                url: url.to_owned(),
                problem: format!("the answer is not what a hub says: {error}"),
            })
        })?;
        Ok((value, next))
    }
}

/// The certificates that servers are believed by.
fn roots(access: &Access) -> Result<RootCerts, HubError> {
    let Some(path) = &access.certificates else {
        return Ok(RootCerts::WebPki);
    };
    let pem = std::fs::read(path).map_err(|source| HubError::File {
        action: "read",
        path: path.clone(),
        source,
    })?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => {
                return Err(HubError::Certificates {
                    path: path.clone(),
                    problem: error.to_string(),
                });
            }
        }
    }
    if certificates.is_empty() {
        return Err(HubError::Certificates {
            path: path.clone(),
            problem: "has no certificate".to_owned(),
        });
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// The address that a `Link` header gives as the next.
fn next_page(link: &str) -> Option<String> {
    link.split(',').find_map(|part| {
        let (address, relation) = part.trim().split_once(';')?;
        let is_next = relation.split(';').any(|r| r.trim() == "rel=\"next\"");
        let address = address.trim().strip_prefix('<')?.strip_suffix('>')?;
        is_next.then(|| address.to_owned())
    })
}

/// Whether the processor has what the encryption library needs.
fn can_encrypt() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        has!("aes")
            && has!("pclmulqdq")
            && has!("ssse3")
            && has!("avx2")
            && has!("bmi1")
            && has!("bmi2")
            && has!("adx")
    }
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::is_aarch64_feature_detected as has;
        has!("neon") && has!("aes") && has!("pmull") && has!("sha2")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        let link = r#"<https://h/api?a=1>; rel="first", <https://h/api?cursor=x>; rel="next""#;
        assert_eq!(next_page(link).as_deref(), Some("https://h/api?cursor=x"));
        assert_eq!(next_page(r#"<https://h/api>; rel="prev""#), None);
        assert_eq!(next_page("nonsense"), None);
    }
}
