//! What a repository holds.

use serde::Deserialize;

use crate::client::{Client, Refusal};
use crate::repo::encoded;
use crate::{HubError, Repo};

/// What a file's bytes must come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256 of the bytes, in hexadecimal digits: of large files.
    Sha256(String),
    /// SHA-1 of the bytes as git stores them (behind `blob LENGTH` and a zero).
    Git(String),
}

impl Checksum {
    /// The digits.
    #[must_use]
    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::Git(digits) => digits,
        }
    }
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, with folders.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// What it must come to.
    pub checksum: Checksum,
}

/// A repository at one commit.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pub commit: String,
    pub files: Vec<Entry>,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct Item {
    r#type: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: Option<String>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    oid: String,
    size: u64,
}

/// The files of `repo` at what `revision` stands for now.
pub(crate) fn listing(client: &Client, repo: &Repo, revision: &str) -> Result<Listing, Refusal> {
    let revision = encoded(revision, false);
    let about = client.address(&format!("api/models/{repo}/revision/{revision}"));
    let (Revision { sha: commit }, _) = client.json(&about)?;
    if commit.is_empty() || !commit.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(Refusal::Lasting(HubError::Answer {
            url: about,
            problem: format!("names the commit {commit:?}"),
        }));
    }
    let mut files = Vec::new();
    let path = format!("api/models/{repo}/tree/{commit}?recursive=true");
    let mut page = Some(client.address(&path));
    while let Some(url) = page {
        let (items, next): (Vec<Item>, _) = client.json(&url)?;
        for item in items {
            if item.r#type == "file" {
                files.push(entry(item).ok_or_else(|| {
                    Refusal::Lasting(HubError::Answer {
                        url: url.clone(),
                        problem: "lists a file without a checksum".to_owned(),
                    })
                })?);
            }
        }
        page = next;
    }
    Ok(Listing { commit, files })
}

fn entry(item: Item) -> Option<Entry> {
    let (bytes, checksum) = match item.lfs {
        Some(large) => {
            let digits = large.oid.trim_start_matches("sha256:").to_owned();
            (large.size, Checksum::Sha256(digits))
        }
        None => (item.size, Checksum::Git(item.oid?)),
    };
    let hexadecimal = |c: char| c.is_ascii_hexdigit();
    let digits = checksum.digits();
    (!digits.is_empty() && digits.chars().all(hexadecimal)).then_some(Entry {
        path: item.path,
        bytes,
        checksum,
    })
}
