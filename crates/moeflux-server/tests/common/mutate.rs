//! Changes to JSON: something in a right request becomes something else.

use proptest::prelude::*;
use serde_json::{Number, Value};

/// One change; `place` chooses the node among all of a value.
#[derive(Clone, Debug)]
pub struct Change {
    place: prop::sample::Index,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// The node becomes something else.
    Replace(Value),
    /// The node's first child goes away.
    RemoveChild,
    /// The node is in a list, so often.
    Wrap(usize),
    /// An object gets a member, a list an item.
    Add(String, Value),
    /// A list's items are there twice; text too.
    Double,
}

/// Names that mean something somewhere.
const NAMES: [&str; 24] = [
    "role",
    "content",
    "type",
    "text",
    "name",
    "arguments",
    "function",
    "tools",
    "tool_choice",
    "tool_calls",
    "parameters",
    "properties",
    "required",
    "enum",
    "anyOf",
    "$ref",
    "pattern",
    "items",
    "max_tokens",
    "n",
    "stream",
    "response_format",
    "input",
    "reasoning_content",
];

fn number() -> impl Strategy<Value = Value> {
    let few = [0.0, -1.0, 0.5, 1e-30, 1e30, 4294967296.0, 9.3e18, -1e300];
    prop_oneof![
        (-3_i64..30).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        prop::sample::select(few.to_vec())
            .prop_map(|n| Number::from_f64(n).map_or(Value::Null, Value::Number)),
    ]
}

fn text() -> impl Strategy<Value = String> {
    let words = [
        "",
        "user",
        "assistant",
        "system",
        "tool",
        "auto",
        "none",
        "required",
        "function",
        "text",
        "object",
        "string",
        "json_object",
        "json_schema",
        "<think>",
        "</think>",
        "<tool_call>",
        "<|im_end|>",
        "<|im_start|>",
        "{\"a\": 1}",
        "[(",
        "\u{0}\u{feff}\u{202e}é😀",
    ];
    prop_oneof![
        prop::sample::select(words.to_vec()).prop_map(str::to_owned),
        prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned),
        any::<String>(),
        Just("fox ".repeat(3000)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number(),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let member = (text(), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            prop::collection::vec(member, 0..4)
                .prop_map(|list| Value::Object(list.into_iter().collect())),
        ]
    })
}

/// One to three changes.
pub fn changes() -> impl Strategy<Value = Vec<Change>> {
    let what = prop_oneof![
        4 => value().prop_map(What::Replace),
        2 => Just(What::RemoveChild),
        1 => (1_usize..4).prop_map(What::Wrap),
        2 => (text(), value()).prop_map(|(name, value)| What::Add(name, value)),
        1 => Just(What::Double),
    ];
    let change = (any::<prop::sample::Index>(), what);
    let change = change.prop_map(|(place, what)| Change { place, what });
    prop::collection::vec(change, 1..4)
}

/// Makes a change.
pub fn change(body: &mut Value, change: &Change) {
    let mut left = change.place.index(count(body));
    let node = find(body, &mut left);
    let Some(node) = node else {
        return;
    };
    match &change.what {
        What::Replace(value) => *node = value.clone(),
        What::RemoveChild => match node {
            Value::Object(map) => {
                if let Some(name) = map.keys().next().cloned() {
                    map.shift_remove(&name);
                }
            }
            Value::Array(list) if !list.is_empty() => drop(list.remove(0)),
            other => *other = Value::Null,
        },
        What::Wrap(times) => {
            for _ in 0..*times {
                *node = Value::Array(vec![node.take()]);
            }
        }
        What::Add(name, value) => match node {
            Value::Object(map) => drop(map.insert(name.clone(), value.clone())),
            Value::Array(list) => list.push(value.clone()),
            other => *other = value.clone(),
        },
        What::Double => match node {
            Value::Array(list) => list.extend(list.clone()),
            Value::String(text) => text.extend([text.clone()]),
            _ => {}
        },
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

fn find<'v>(value: &'v mut Value, left: &mut usize) -> Option<&'v mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    let children: Box<dyn Iterator<Item = &'v mut Value>> = match value {
        Value::Array(list) => Box::new(list.iter_mut()),
        Value::Object(map) => Box::new(map.values_mut()),
        _ => return None,
    };
    for child in children {
        let nodes = count(child);
        if *left < nodes {
            return find(child, left);
        }
        *left -= nodes;
    }
    None
}
