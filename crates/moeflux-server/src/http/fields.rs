//! The parameters of a request, taken one by one so that none is ignored in silence.
//!
//! The rule: a parameter that is not known is refused, with its name. Parameters that cannot change
//! the answer (such as `user`) are accepted and have no effect. A parameter that asks for what the
//! server does not do is refused, except with the value that means not to do it. `null` is the same
//! as not giving the parameter.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::ApiError;

/// What is left of a request's parameters, or of an object within them.
#[derive(Debug)]
pub struct Fields {
    map: Map<String, Value>,
    /// The object's own name with a dot; empty for the request itself.
    place: String,
}

impl Fields {
    /// The parameters of a body.
    ///
    /// # Errors
    /// It is not a JSON object.
    pub fn parse(body: &[u8]) -> Result<Fields, ApiError> {
        let status = axum::http::StatusCode::BAD_REQUEST;
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Fields::of(map, "")),
            Ok(_) => {
                let message = "the body must be a JSON object";
                Err(ApiError::new(status, "invalid_json", message))
            }
            Err(error) => {
                let message = format!("the body is not JSON: {error}");
                Err(ApiError::new(status, "invalid_json", message))
            }
        }
    }

    /// The fields of an object at `place`.
    pub fn of(map: Map<String, Value>, place: &str) -> Fields {
        let place = match place {
            "" => String::new(),
            place => format!("{place}."),
        };
        Fields { map, place }
    }

    /// The fields of a value at `place`, which must be an object.
    ///
    /// # Errors
    /// It is something else.
    pub fn of_value(value: Value, place: &str) -> Result<Fields, ApiError> {
        match value {
            Value::Object(map) => Ok(Fields::of(map, place)),
            other => Err(ApiError::value(
                place,
                format!("must be an object, not {}", kind(&other)),
            )),
        }
    }

    /// The full name of a field.
    pub fn name(&self, field: &str) -> String {
        format!("{}{field}", self.place)
    }

    /// A parameter as it was given, without taking it.
    pub fn given(&self, field: &str) -> Value {
        self.map.get(field).cloned().unwrap_or_default()
    }

    /// Takes a parameter.
    ///
    /// # Errors
    /// It has the wrong type.
    pub fn take<T: DeserializeOwned>(&mut self, field: &str) -> Result<Option<T>, ApiError> {
        // `shift_remove` keeps the order, so that an error names the first unknown one.
        let Some(value) = self.map.shift_remove(field).filter(|v| !v.is_null()) else {
            return Ok(None);
        };
        match serde_path_to_error::deserialize(value) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let path = error.path().to_string();
                let name = match path.as_str() {
                    "." => self.name(field),
                    path if path.starts_with('[') => format!("{}{path}", self.name(field)),
                    path => format!("{}.{path}", self.name(field)),
                };
                let problem = error.into_inner();
                let message = format!("`{name}`: {problem}");
                Err(ApiError::param(&name, "invalid_type", message))
            }
        }
    }

    /// Takes a parameter that must be there.
    ///
    /// # Errors
    /// It is absent or has the wrong type.
    pub fn require<T: DeserializeOwned>(&mut self, field: &str) -> Result<T, ApiError> {
        let name = self.name(field);
        self.take(field)?.ok_or_else(|| {
            let message = format!("`{name}` is missing");
            ApiError::param(&name, "missing_required_parameter", message)
        })
    }

    /// Takes a number within a range.
    ///
    /// # Errors
    /// It has the wrong type or lies outside.
    pub fn number(&mut self, field: &str, low: f32, high: f32) -> Result<Option<f32>, ApiError> {
        let value: Option<f32> = self.take(field)?;
        match value {
            Some(value) if !(low..=high).contains(&value) => {
                let problem = format!("must be between {low} and {high}, not {value}");
                Err(ApiError::value(&self.name(field), problem))
            }
            value => Ok(value),
        }
    }

    /// Takes a count within a range.
    ///
    /// # Errors
    /// It has the wrong type or lies outside.
    pub fn count(
        &mut self,
        field: &str,
        low: usize,
        high: usize,
    ) -> Result<Option<usize>, ApiError> {
        let value: Option<i64> = self.take(field)?;
        let Some(value) = value else {
            return Ok(None);
        };
        match usize::try_from(value)
            .ok()
            .filter(|v| (low..=high).contains(v))
        {
            Some(value) => Ok(Some(value)),
            None => {
                let problem = match high {
                    usize::MAX => format!("must be at least {low}, not {value}"),
                    _ => format!("must be between {low} and {high}, not {value}"),
                };
                Err(ApiError::value(&self.name(field), problem))
            }
        }
    }

    /// Drops parameters that cannot change the answer.
    pub fn ignore(&mut self, fields: &[&str]) {
        for field in fields {
            self.map.shift_remove(*field);
        }
    }

    /// Drops a parameter that asks for nothing if it is `neutral`.
    ///
    /// # Errors
    /// It asks for what the server does not do.
    pub fn only(&mut self, field: &str, neutral: &[Value]) -> Result<(), ApiError> {
        match self.map.shift_remove(field) {
            Some(value) if !value.is_null() && !neutral.contains(&value) => {
                let name = self.name(field);
                let message = format!("`{name}`: {value} is not supported; leave it out");
                Err(ApiError::param(&name, "unsupported_value", message))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what nobody has taken.
    ///
    /// # Errors
    /// The first parameter left, unless it is `null`.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.map.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((field, _)) => {
                let name = self.name(field);
                let message = format!("`{name}` is not a parameter of this server; leave it out");
                Err(ApiError::param(&name, "unknown_parameter", message))
            }
        }
    }
}

/// The kind of a JSON value in words.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
