//! Python methods on text, lists and dictionaries that the compatibility crate lacks, and `%`.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// The widest text that padding methods make.
const WIDTH_LIMIT: usize = 1 << 16;

/// Called for a method that the engine does not know.
pub fn call(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match (value.kind(), value.as_str()) {
        (_, Some(text)) => text_method(text, method, args)?,
        (ValueKind::Seq, _) => list_method(value, method, args)?,
        (ValueKind::Map, _) if method == "copy" => Some(value.clone()),
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// `text % operand`: a tuple or list gives several values, anything else one.
pub fn printf(text: &str, operand: Rest<Value>) -> Result<String, Error> {
    let [operand] = operand.as_slice() else {
        return Err(Error::from(ErrorKind::TooManyArguments));
    };
    if operand
        .downcast_object_ref::<minijinja::value::Tuple>()
        .is_some()
    {
        let values: Vec<Value> = operand.try_iter()?.collect();
        return format(FormatStyle::Printf, text, &values);
    }
    format(FormatStyle::Printf, text, std::slice::from_ref(operand))
}

/// The filter `indent(width=4, first=false, blank=false)`; a final line end stays.
pub fn indent(text: &str, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(args
            .get(index)
            .cloned()
            .or(kwargs.get::<Option<Value>>(name)?))
    };
    let (width, first, blank) = (
        argument(0, "width")?,
        argument(1, "first")?,
        argument(2, "blank")?,
    );
    kwargs.assert_all_used()?;
    let indentation = match width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(width)?.min(WIDTH_LIMIT)),
        },
    };
    let is_set = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let (first, blank) = (is_set(first), is_set(blank));
    let mut out = String::new();
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            out.push('\n');
        }
        if if index == 0 {
            first
        } else {
            blank || !line.is_empty()
        } {
            out.push_str(&indentation);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// The filter `escape`, with the entities that Python's library chose.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn text_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let result = match method {
        "rsplit" => {
            let (separator, limit): (Option<&str>, Option<i64>) = from_args(args)?;
            rsplit(text, separator, limit)?
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
            }
            let from_left = method == "partition";
            let split = if from_left {
                text.split_once(separator)
            } else {
                text.rsplit_once(separator)
            };
            let parts = match (split, from_left) {
                (Some((before, after)), _) => [before, separator, after],
                (None, true) => [text, "", ""],
                (None, false) => ["", "", text],
            };
            Value::from(parts.map(Value::from).to_vec())
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "casefold" => Value::from(text.to_lowercase()),
        "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let found = if method == "index" {
                text.find(what)
            } else {
                text.rfind(what)
            };
            let Some(bytes) = found else {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    "substring not found",
                ));
            };
            Value::from(text[..bytes].chars().count())
        }
        "zfill" | "ljust" | "rjust" | "center" => pad(text, method, args)?,
        _ => return Ok(None),
    };
    Ok(Some(result))
}

fn rsplit(text: &str, separator: Option<&str>, limit: Option<i64>) -> Result<Value, Error> {
    let limit = limit
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX);
    let mut parts = Vec::new();
    let mut rest = text;
    match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) => {
            while parts.len() < limit
                && let Some((before, after)) = rest.rsplit_once(separator)
            {
                parts.push(after);
                rest = before;
            }
            parts.push(rest);
        }
        None => {
            rest = rest.trim_end();
            while parts.len() < limit
                && let Some((before, after)) = rest.rsplit_once(char::is_whitespace)
            {
                parts.push(after);
                rest = before.trim_end();
            }
            if parts.len() >= limit || !rest.trim_start().is_empty() {
                parts.push(rest);
            }
            parts.retain(|part| !part.is_empty());
        }
    }
    Ok(parts.into_iter().rev().map(Value::from).collect())
}

fn pad(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<char>) = from_args(args)?;
    if width > WIDTH_LIMIT {
        let message = format!("width {width} is over the limit of {WIDTH_LIMIT}");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let missing = width.saturating_sub(text.chars().count());
    let fill = |count: usize, default: char| -> String {
        std::iter::repeat_n(fill.unwrap_or(default), count).collect()
    };
    Ok(Value::from(match method {
        "ljust" => format!("{text}{}", fill(missing, ' ')),
        "rjust" => format!("{}{text}", fill(missing, ' ')),
        "center" => {
            // The odd space goes where Python puts it.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", fill(left, ' '), fill(missing - left, ' '))
        }
        _ => {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
    }))
}

fn list_method(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "index" => {
            let (what,): (Value,) = from_args(args)?;
            match list.try_iter()?.position(|item| item == what) {
                Some(index) => Ok(Some(Value::from(index))),
                None => Err(Error::new(
                    ErrorKind::InvalidOperation,
                    "value is not in list",
                )),
            }
        }
        "copy" => Ok(Some(list.clone())),
        _ => Ok(None),
    }
}
