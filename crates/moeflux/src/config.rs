//! Reading `config.json`: every access names the file and field when it fails.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::Error;

/// No size of a matrix or head is larger; keeps products of three within 64 bits.
const LARGEST_SIZE: usize = 1 << 20;

/// A configuration file, or a section of one.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    section: String,
    fields: Map<String, Value>,
    /// What to call fields in messages that stand under another name in the file.
    names: Arc<BTreeMap<String, String>>,
    /// All of it as text, which tells configurations apart.
    text: Arc<str>,
}

impl Config {
    /// Reads `DIR/config.json`.
    ///
    /// # Errors
    /// [`Error::NotAModel`] without the file, [`Error::File`] or [`Error::Config`] if it cannot be
    /// read as a JSON object.
    pub fn open(dir: &Path) -> Result<Config, Error> {
        let path = dir.join("config.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(Error::NotAModel {
                    path: dir.to_owned(),
                });
            }
            Err(source) => {
                return Err(Error::File {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        Config::parse(&path, &text)
    }

    /// Parses the text of a configuration file; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not a JSON object.
    pub fn parse(path: &Path, text: &str) -> Result<Config, Error> {
        let fail = |problem: String| Error::Config {
            path: path.to_owned(),
            field: "(the whole file)".to_owned(),
            problem,
        };
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => Ok(Config {
                path: path.to_owned(),
                section: String::new(),
                fields,
                names: Arc::default(),
                text: text.into(),
            }),
            Ok(_) => Err(fail("is not a JSON object".to_owned())),
            Err(e) => Err(fail(format!("is not valid JSON: {e}"))),
        }
    }

    /// A configuration of `fields` that were read from `path` under other `names` (field to name
    /// there).
    pub fn from_fields(
        path: &Path,
        fields: Map<String, Value>,
        names: BTreeMap<String, String>,
    ) -> Config {
        let text = Value::Object(fields.clone()).to_string().into();
        Config {
            path: path.to_owned(),
            section: String::new(),
            fields,
            names: Arc::new(names),
            text,
        }
    }

    /// All of the file (and not of the section) as text.
    pub fn file_text(&self) -> &str {
        &self.text
    }

    /// The file this came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The section `name`, if there is one.
    pub fn section(&self, name: &str) -> Option<Config> {
        let fields = self.fields.get(name)?.as_object()?.clone();
        Some(Config {
            path: self.path.clone(),
            section: format!("{}{name}.", self.section),
            fields,
            names: Arc::clone(&self.names),
            text: Arc::clone(&self.text),
        })
    }

    /// An [`Error::Config`] about `field`.
    pub fn error(&self, field: &str, problem: impl Into<String>) -> Error {
        let field = format!("{}{field}", self.section);
        Error::Config {
            path: self.path.clone(),
            field: self.names.get(&field).cloned().unwrap_or(field),
            problem: problem.into(),
        }
    }

    fn value(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|v| !v.is_null())
    }

    /// Whether `field` is there and not null.
    pub fn has(&self, field: &str) -> bool {
        self.value(field).is_some()
    }

    /// Whether `field` is there and null, where that says something else than a missing one.
    pub fn is_null(&self, field: &str) -> bool {
        self.fields.get(field).is_some_and(Value::is_null)
    }

    /// A required size: an integer from 1 to 2^20.
    ///
    /// # Errors
    /// [`Error::Config`] if it is missing or out of range.
    pub fn size(&self, field: &str) -> Result<usize, Error> {
        self.size_up_to(field, LARGEST_SIZE)
    }

    /// A required size: an integer from 1 to `most`.
    ///
    /// # Errors
    /// As [`Config::size`].
    pub fn size_up_to(&self, field: &str, most: usize) -> Result<usize, Error> {
        let value = self
            .value(field)
            .ok_or_else(|| self.error(field, "is missing"))?;
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=most).contains(&n) => Ok(n),
            _ => Err(self.error(
                field,
                format!("is {value}, not an integer from 1 to {most}"),
            )),
        }
    }

    /// A size with a default.
    ///
    /// # Errors
    /// As [`Config::size`], if the field is there.
    pub fn size_or(&self, field: &str, default: usize) -> Result<usize, Error> {
        if self.has(field) {
            self.size(field)
        } else {
            Ok(default)
        }
    }

    /// A count with a default: an integer from 0 to 2^20.
    ///
    /// # Errors
    /// [`Error::Config`] if it is something else.
    pub fn count_or(&self, field: &str, default: usize) -> Result<usize, Error> {
        match self.value(field) {
            None => Ok(default),
            Some(value) if value.as_u64() == Some(0) => Ok(0),
            Some(_) => self.size(field),
        }
    }

    /// A finite positive number with a default.
    ///
    /// # Errors
    /// [`Error::Config`] if it is something else.
    pub fn positive_or(&self, field: &str, default: f64) -> Result<f64, Error> {
        match self.value(field) {
            None => Ok(default),
            Some(value) => match value.as_f64() {
                Some(x) if x.is_finite() && x > 0.0 => Ok(x),
                _ => Err(self.error(field, format!("is {value}, not a positive number"))),
            },
        }
    }

    /// A number, if the field is there and is one.
    pub fn number(&self, field: &str) -> Option<f64> {
        self.value(field)?.as_f64()
    }

    /// A truth value with a default.
    ///
    /// # Errors
    /// [`Error::Config`] if it is something else.
    pub fn bool_or(&self, field: &str, default: bool) -> Result<bool, Error> {
        match self.value(field) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.error(field, format!("is {value}, not a bool"))),
        }
    }

    /// A text, if the field is there and is one.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.value(field)?.as_str()
    }

    /// A list of texts, if the field is there.
    ///
    /// # Errors
    /// [`Error::Config`] if it is something else.
    pub fn texts(&self, field: &str) -> Result<Option<Vec<String>>, Error> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        let list: Option<Vec<String>> = value
            .as_array()
            .and_then(|a| a.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        list.map(Some)
            .ok_or_else(|| self.error(field, "is not a list of strings"))
    }

    /// A list of indexes; empty if the field is missing.
    ///
    /// # Errors
    /// [`Error::Config`] if it is something else.
    pub fn indexes(&self, field: &str) -> Result<Vec<usize>, Error> {
        let Some(value) = self.value(field) else {
            return Ok(Vec::new());
        };
        let list: Option<Vec<usize>> = value
            .as_array()
            .and_then(|a| a.iter().map(|v| v.as_u64().map(|n| n as usize)).collect());
        list.ok_or_else(|| self.error(field, "is not a list of layer indexes"))
    }

    /// Refuses a field that has another value than the one the engine implements.
    ///
    /// # Errors
    /// [`Error::Config`] naming both.
    pub fn require_text(&self, field: &str, expected: &str) -> Result<(), Error> {
        match self.text(field) {
            None => Ok(()),
            Some(found) if found == expected => Ok(()),
            Some(found) => Err(self.error(
                field,
                format!("is `{found}`; only `{expected}` is supported"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(Path::new("config.json"), text).expect("an object")
    }

    #[test]
    fn errors_name_the_file_the_section_and_the_field() {
        let c = config(r#"{"text_config": {"hidden_size": 0, "act": "gelu", "kinds": [1]}}"#);
        let text = c.section("text_config").expect("it is there");
        for (error, words) in [
            (text.size("hidden_size"), "text_config.hidden_size` is 0"),
            (text.size("layers"), "text_config.layers` is missing"),
        ] {
            let message = error.expect_err("refused").to_string();
            assert!(
                message.contains("config.json") && message.contains(words),
                "{message}"
            );
        }
        let message = text
            .require_text("act", "silu")
            .expect_err("refused")
            .to_string();
        assert!(message.contains("`gelu`; only `silu`"), "{message}");
        text.texts("kinds").expect_err("not strings");
    }

    #[test]
    fn null_is_as_good_as_missing() {
        let c = config(r#"{"a": null, "b": 7}"#);
        assert!(!c.has("a"));
        assert_eq!(c.size_or("a", 3).expect("the default"), 3);
        assert_eq!(c.size_or("b", 3).expect("the value"), 7);
        assert!(c.bool_or("a", true).expect("the default"));
        assert!(c.size_up_to("b", 6).is_err());
    }
}
