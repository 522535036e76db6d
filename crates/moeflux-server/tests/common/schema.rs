//! Values held to schemas, as far as the OpenAPI document uses JSON schema.

use serde_json::Value;

/// What a schema may say; anything else in it would go unnoticed.
const KNOWN: [&str; 26] = [
    "$ref",
    "additionalProperties",
    "default",
    "description",
    "enum",
    "example",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "oneOf",
    "anyOf",
    "allOf",
    "pattern",
    "prefixItems",
    "properties",
    "propertyNames",
    "required",
    "title",
    "type",
    "const",
    "x",
];

/// What is wrong with a value by a schema of the document, with the place of each problem.
pub fn problems(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    Check { document }.value(schema, value, "", &mut found);
    found
}

struct Check<'d> {
    document: &'d Value,
}

impl Check<'_> {
    fn value(&self, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
        let Some(map) = schema.as_object() else {
            return match schema {
                Value::Bool(true) => {}
                other => found.push(format!("{at}: the schema {other} holds for nothing")),
            };
        };
        if let Some(word) = map.keys().find(|word| !KNOWN.contains(&word.as_str())) {
            found.push(format!("{at}: the schema's `{word}` is not understood"));
        }
        if let Some(place) = schema["$ref"].as_str() {
            match self.document.pointer(place.trim_start_matches('#')) {
                Some(schema) => self.value(schema, value, at, found),
                None => found.push(format!("{at}: {place} is not in the document")),
            }
        }
        if !is_of_type(&schema["type"], value) {
            found.push(format!("{at}: {value} is not {}", schema["type"]));
            return;
        }
        if let Some(values) = schema["enum"].as_array()
            && !values.contains(value)
        {
            found.push(format!("{at}: {value} is not one of {values:?}"));
        }
        for all in schema["allOf"].as_array().into_iter().flatten() {
            self.value(all, value, at, found);
        }
        for word in ["oneOf", "anyOf"] {
            if let Some(choices) = schema[word].as_array() {
                self.one_of(choices, value, at, found);
            }
        }
        self.bounds(schema, value, at, found);
        match value {
            Value::Object(_) => self.object(schema, value, at, found),
            Value::Array(list) => self.list(schema, list, at, found),
            _ => {}
        }
    }

    fn one_of(&self, choices: &[Value], value: &Value, at: &str, found: &mut Vec<String>) {
        let tries = choices.iter().map(|choice| {
            let mut found = Vec::new();
            self.value(choice, value, at, &mut found);
            found
        });
        // The choice that fits best says most about what is wrong.
        if let Some(best) = tries.min_by_key(Vec::len) {
            found.extend(best);
        }
    }

    fn bounds(&self, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
        let size = match value {
            Value::Number(number) => ("minimum", "maximum", number.as_f64().unwrap_or(f64::NAN)),
            Value::String(text) => ("minLength", "maxLength", text.chars().count() as f64),
            Value::Array(list) => ("minItems", "maxItems", list.len() as f64),
            _ => return,
        };
        let (low, high, size) = size;
        let below = schema[low].as_f64().is_some_and(|low| size < low);
        if below || schema[high].as_f64().is_some_and(|high| size > high) {
            found.push(format!("{at}: {size} is out of bounds"));
        }
    }

    fn object(&self, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
        for name in schema["required"].as_array().into_iter().flatten() {
            if value.get(name.as_str().unwrap_or_default()).is_none() {
                found.push(format!("{at}: {name} is missing"));
            }
        }
        for (name, member) in value.as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            match (
                schema["properties"].get(name),
                schema.get("additionalProperties"),
            ) {
                (Some(schema), _) => self.value(schema, member, &at, found),
                (None, Some(Value::Bool(false))) => found.push(format!("{at} is not described")),
                (None, Some(schema)) => self.value(schema, member, &at, found),
                (None, None) => {}
            }
        }
    }

    fn list(&self, schema: &Value, list: &[Value], at: &str, found: &mut Vec<String>) {
        for (index, item) in list.iter().enumerate() {
            let schema = schema["prefixItems"].get(index).or(schema.get("items"));
            if let Some(schema) = schema {
                self.value(schema, item, &format!("{at}[{index}]"), found);
            }
        }
    }
}

fn is_of_type(kind: &Value, value: &Value) -> bool {
    match kind {
        Value::Array(kinds) => kinds.iter().any(|kind| is_of_type(kind, value)),
        Value::String(kind) => match kind.as_str() {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => false,
        },
        _ => true,
    }
}
