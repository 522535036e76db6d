//! Tests of a value's kind, where Jinja2's answer is another than minijinja's.

use minijinja::Value;
use minijinja::value::ValueKind;

/// Whether a loop can go over it: nothing else is `none`, over which minijinja goes as over an empty
/// list. Templates ask so whether there are tools.
pub fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Whether it has a length and elements: text and mappings too.
pub fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Bytes, Map, Seq, String, Undefined};
    matches!(value.kind(), Seq | Map | String | Bytes | Undefined)
}
