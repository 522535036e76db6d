//! Which files of a repository a model needs.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use serde::Deserialize;

use crate::{Entry, HubError, Repo};

/// The file that lists shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// Small files that go with weights in safetensors.
const TEXTS: [&str; 13] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "tiktoken.model",
    "preprocessor_config.json",
];
/// Files named in messages.
const NAMED: usize = 12;

/// What is fetched first, and whether the index then says more.
pub(crate) struct Needed {
    pub files: Vec<Entry>,
    pub index: Option<Entry>,
}

/// The files that are needed of a repository; `wanted` are those that the user names.
pub(crate) fn needed(repo: &Repo, files: &[Entry], wanted: &[String]) -> Result<Needed, HubError> {
    let find = |name: &str| files.iter().find(|entry| entry.path == name).cloned();
    if !wanted.is_empty() {
        let mut chosen = Vec::new();
        for name in wanted {
            let missing = || HubError::MissingFile {
                repo: repo.to_string(),
                file: name.clone(),
                needed_for: "which was asked for".to_owned(),
            };
            let first = find(name).ok_or_else(missing)?;
            for entry in with_parts(&first, files) {
                if !chosen.contains(&entry) {
                    chosen.push(entry);
                }
            }
        }
        return check(repo, chosen, None);
    }
    let texts = TEXTS.iter().filter_map(|name| find(name));
    if let Some(index) = find(INDEX) {
        return check(repo, texts.collect(), Some(index));
    }
    if let Some(single) = find(SINGLE) {
        return check(repo, texts.chain([single]).collect(), None);
    }
    gguf(repo, files)
}

/// The one GGUF model of a repository.
fn gguf(repo: &Repo, files: &[Entry]) -> Result<Needed, HubError> {
    let is_first = |entry: &&Entry| {
        let name = entry.path.rsplit('/').next().unwrap_or_default();
        let beside = name.starts_with("mmproj") || name.starts_with("mtp-");
        let part = parts(&entry.path).map(|(_, number, _)| number);
        name.ends_with(".gguf") && !beside && part.unwrap_or(1) == 1
    };
    let models: Vec<&Entry> = files.iter().filter(is_first).collect();
    let names = |entries: &mut dyn Iterator<Item = &Entry>| {
        let names: Vec<&str> = entries.take(NAMED).map(|e| e.path.as_str()).collect();
        names.join(", ")
    };
    match models.as_slice() {
        [only] => check(repo, with_parts(only, files), None),
        [] => Err(HubError::NoWeights {
            repo: repo.to_string(),
            files: names(&mut files.iter()),
        }),
        several => Err(HubError::Several {
            repo: repo.to_string(),
            files: names(&mut several.iter().copied()),
        }),
    }
}

/// `NAME-00002-of-00003.gguf` as the name, 2 and 3.
fn parts(path: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    Some((name, number.parse().ok()?, count.parse().ok()?))
}

/// A file with the other parts of its model, if it has any.
fn with_parts(file: &Entry, files: &[Entry]) -> Vec<Entry> {
    let Some((name, _, count)) = parts(&file.path) else {
        return vec![file.clone()];
    };
    let same = |entry: &&Entry| {
        parts(&entry.path).is_some_and(|(other, _, of)| other == name && of == count)
    };
    files.iter().filter(same).cloned().collect()
}

/// Refuses names that leave the destination.
fn check(repo: &Repo, files: Vec<Entry>, index: Option<Entry>) -> Result<Needed, HubError> {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let leaves = |entry: &&Entry| {
        entry.path.is_empty()
            || entry.path.contains('\\')
            || !Path::new(&entry.path).components().all(plain)
    };
    match files.iter().chain(&index).find(leaves) {
        Some(entry) => Err(HubError::BadPath {
            repo: repo.to_string(),
            file: entry.path.clone(),
        }),
        None => Ok(Needed { files, index }),
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}

/// The shards that an index lists.
pub(crate) fn shards(repo: &Repo, index: &str, files: &[Entry]) -> Result<Vec<Entry>, HubError> {
    let parsed: Index = serde_json::from_str(index).map_err(|error| HubError::Answer {
        url: format!("{repo}: {INDEX}"),
        problem: format!("is no index of shards: {error}"),
    })?;
    let names: BTreeSet<&String> = parsed.weight_map.values().collect();
    let find = |name: &&String| {
        let entry = files.iter().find(|entry| entry.path == **name);
        entry.cloned().ok_or_else(|| HubError::MissingFile {
            repo: repo.to_string(),
            file: (*name).clone(),
            needed_for: format!("which {INDEX} lists"),
        })
    };
    let shards = names.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    Ok(check(repo, shards, None)?.files)
}
