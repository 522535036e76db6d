//! The README's table of architectures by format is what the registry and the fixtures say: a row
//! for each architecture, and in a cell what a test opens and compares with `transformers`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod common;
#[path = "common/forms.rs"]
mod forms;
#[path = "common/gguf.rs"]
mod gguf;

use std::collections::BTreeSet;
use std::path::Path;

use common::{FIXTURES, fixture, repository};
use forms::FORMS;
use gguf::{MADE_FROM, WITH_ANSWERS, file};
use moeflux::{inspect, models};

const START: &str = "<!-- architectures by format: crates/moeflux/tests/readme.rs -->\n";
const END: &str = "<!-- end -->";

/// The table, from what `goldens.rs`, `formats.rs` and `gguf.rs` test.
fn table() -> String {
    let describe = |path: &Path| inspect(path).unwrap();
    // A checkpoint's architecture, and the one that its conversion opens as: there are fewer.
    let made = MADE_FROM.map(|(name, source, _)| (describe(&file(name)), Some(source)));
    let own = WITH_ANSWERS.map(|name| (describe(&file(&format!("{name}.gguf"))), None));
    let files: Vec<_> = made.into_iter().chain(own).collect();
    let plain = FIXTURES.map(|name| (name, fixture(name)));
    let coded = FORMS.map(|(name, ..)| (name, fixture(&format!("formats/{name}"))));
    let directories = plain.into_iter().chain(coded);
    let directories: Vec<_> = directories
        .map(|(name, path)| (name, describe(&path).model_type))
        .collect();
    let mut table = "| `model_type` | safetensors | GGUF |\n|---|---|---|\n".to_owned();
    for name in models::known() {
        let fixtures: Vec<String> = directories
            .iter()
            .filter(|(_, model_type)| model_type == name)
            .map(|(fixture, _)| format!("`{fixture}`"))
            .collect();
        let archs: BTreeSet<String> = files
            .iter()
            .filter(|(info, source)| {
                let source = source.map(|source| describe(&fixture(source)).model_type);
                info.model_type == name || source.as_deref() == Some(name)
            })
            .map(|(info, _)| format!("`{}`", info.gguf.as_ref().unwrap().architecture))
            .collect();
        let cell = |items: Vec<String>| match items.is_empty() {
            true => "-".to_owned(),
            false => items.join(", "),
        };
        let (fixtures, archs) = (cell(fixtures), cell(archs.into_iter().collect()));
        table.push_str(&format!("| `{name}` | {fixtures} | {archs} |\n"));
    }
    table
}

#[test]
fn the_table_is_what_is_tested() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, rest) = readme.split_once(START).unwrap();
    let (found, _) = rest.split_once(END).unwrap();
    let expected = table();
    assert!(
        found == expected,
        "README.md should have between its marks:\n{expected}"
    );
    for line in expected.lines().skip(2) {
        let safetensors = line.split('|').nth(2).unwrap_or_default();
        assert_ne!(safetensors.trim(), "-", "no test opens {line}");
    }
}
