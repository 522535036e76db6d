//! The API key of a server, as flags give it.

use std::path::Path;

use crate::failure::Failure;

/// Where a key is looked for if no flag gives it.
const VARIABLE: &str = "MOEFLUX_API_KEY";

/// The key of a flag, a file, or the environment; `None` if there is none.
///
/// # Errors
/// The file cannot be read, or what it holds cannot be a key.
pub fn given(flag: Option<&str>, file: Option<&Path>) -> Result<Option<String>, Failure> {
    let key = match (flag, file) {
        (Some(key), _) => Some(key.to_owned()),
        (None, Some(path)) => {
            let read = std::fs::read_to_string(path);
            Some(read.map_err(|source| Failure::File {
                action: "read",
                path: path.into(),
                source,
            })?)
        }
        (None, None) => std::env::var(VARIABLE).ok(),
    };
    let Some(key) = key else {
        return Ok(None);
    };
    let key = key.trim().to_owned();
    match !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(Some(key)),
        false => Err(Failure::Usage(
            "the API key must be visible ASCII characters, at least one".to_owned(),
        )),
    }
}
