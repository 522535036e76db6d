//! Names of repositories, and how they are written in addresses.

use std::fmt;
use std::str::FromStr;

use crate::HubError;

/// A model repository: `OWNER/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    owner: String,
    name: String,
}

impl Repo {
    /// The part after the owner.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Repo {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let plain = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && part.chars().all(known) && !part.starts_with('.')
        };
        match text.split_once('/') {
            Some((owner, name)) if plain(owner) && plain(name) => Ok(Self {
                owner: owner.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(HubError::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.owner, self.name)
    }
}

/// `text` as it may stand in an address; slashes stay if `keep_slashes`.
pub(crate) fn encoded(text: &str, keep_slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'/' if keep_slashes => out.push('/'),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_two_plain_parts() {
        for good in ["Qwen/Qwen3-30B-A3B", "a/b", "unsloth/gpt-oss-20b-GGUF"] {
            assert_eq!(
                good.parse::<Repo>().map(|r| r.to_string()).ok(),
                Some(good.into())
            );
        }
        for bad in [
            "", "gpt2", "a/b/c", "../etc", "a/..", "a/.b", "a b/c", "/b", "a/",
        ] {
            assert!(bad.parse::<Repo>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_hold_what_is_not_plain_as_percents() {
        assert_eq!(encoded("a b/ü#.gguf", true), "a%20b/%C3%BC%23.gguf");
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}
