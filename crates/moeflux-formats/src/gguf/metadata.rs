//! The keys of a GGUF file, with errors that name file and key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::strings::StringArray;
use super::value::{Array, Value};
use crate::error::{FormatError, Result};

/// What a GGUF file says about its model.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    path: PathBuf,
    keys: BTreeMap<String, Value>,
}

impl Metadata {
    pub(super) fn new(path: PathBuf, keys: BTreeMap<String, Value>) -> Self {
        Self { path, keys }
    }

    /// The file, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A key's value, if the key is there.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key)
    }

    /// All keys and values, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.keys.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A key's value.
    ///
    /// # Errors
    /// [`FormatError::MissingKey`].
    pub fn require(&self, key: &str) -> Result<&Value> {
        self.get(key).ok_or_else(|| FormatError::MissingKey {
            path: self.path.clone(),
            key: key.to_owned(),
        })
    }

    /// What `read` (such as [`Metadata::u64`]) makes of a key, or `None` if the key is absent.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn optional<'a, T>(
        &'a self,
        key: &str,
        read: impl FnOnce(&'a Self, &str) -> Result<T>,
    ) -> Result<Option<T>> {
        self.get(key).map(|_| read(self, key)).transpose()
    }

    /// An integer of any type that is not negative.
    ///
    /// # Errors
    /// No such key, or another type or value.
    pub fn u64(&self, key: &str) -> Result<u64> {
        let value = self.require(key)?;
        let integer = value
            .as_integer()
            .and_then(|integer| integer.try_into().ok());
        integer.ok_or_else(|| self.wrong(key, "an integer that is not negative", value))
    }

    /// A number of type f32, or f64 rounded to it.
    ///
    /// # Errors
    /// No such key, or another type.
    pub fn f32(&self, key: &str) -> Result<f32> {
        match self.require(key)? {
            Value::F32(number) => Ok(*number),
            Value::F64(number) => Ok(*number as f32),
            other => Err(self.wrong(key, "a number of type f32", other)),
        }
    }

    /// A truth value.
    ///
    /// # Errors
    /// No such key, or another type.
    pub fn bool(&self, key: &str) -> Result<bool> {
        match self.require(key)? {
            Value::Bool(truth) => Ok(*truth),
            other => Err(self.wrong(key, "bool", other)),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// No such key, or another type.
    pub fn string(&self, key: &str) -> Result<&str> {
        match self.require(key)? {
            Value::String(text) => Ok(text),
            other => Err(self.wrong(key, "a string", other)),
        }
    }

    /// An array of texts.
    ///
    /// # Errors
    /// No such key, or another type.
    pub fn strings(&self, key: &str) -> Result<&StringArray> {
        match self.require(key)? {
            Value::Array(Array::Strings(strings)) => Ok(strings),
            other => Err(self.wrong(key, "an array of strings", other)),
        }
    }

    /// An array of integers of any type whose values fit u32.
    ///
    /// # Errors
    /// No such key, or another type or value.
    pub fn u32s(&self, key: &str) -> Result<Vec<u32>> {
        self.integers(key, "an array of u32")
    }

    /// An array of integers of any type whose values fit i32.
    ///
    /// # Errors
    /// No such key, or another type or value.
    pub fn i32s(&self, key: &str) -> Result<Vec<i32>> {
        self.integers(key, "an array of i32")
    }

    /// An array of f32.
    ///
    /// # Errors
    /// No such key, or another type.
    pub fn f32s(&self, key: &str) -> Result<&[f32]> {
        match self.require(key)? {
            Value::Array(Array::F32(numbers)) => Ok(numbers),
            other => Err(self.wrong(key, "an array of f32", other)),
        }
    }

    fn integers<T: TryFrom<i128>>(&self, key: &str, expected: &'static str) -> Result<Vec<T>> {
        let value = self.require(key)?;
        let integers = match value {
            Value::Array(array) => array.integers(),
            _ => None,
        };
        integers.ok_or_else(|| self.wrong(key, expected, value))
    }

    fn wrong(&self, key: &str, expected: &'static str, found: &Value) -> FormatError {
        FormatError::WrongKeyType {
            path: self.path.clone(),
            key: key.to_owned(),
            expected,
            found: found.summary(),
        }
    }
}
