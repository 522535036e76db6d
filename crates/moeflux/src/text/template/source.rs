//! Two rewritings that make a transformers template compile here, line by line as it was.
//!
//! `{% generation %}` blocks become `{% with %}` (a scope of its own, the same whitespace rules), and
//! `"format" % operand` becomes a filter call, because the template engine has no `%` on text.

/// Filter that does what `%` does on text.
pub const PRINTF_FILTER: &str = "moeflux_printf";

/// Formats nested in formats beyond this are left as they are.
const DEPTH_LIMIT: usize = 16;

/// The most bytes of a tag beside its strings: the template engine walks expressions recursively.
const TAG_BYTES_LIMIT: usize = 4096;
/// The most `elif` in a template, which are walked recursively too.
const ELIF_LIMIT: usize = 500;

/// A template that would take more stack than there may be.
#[derive(Debug, PartialEq, Eq)]
pub struct TooComplex {
    /// Line in the template, from 1.
    pub line: usize,
    /// What there is too much of.
    pub message: String,
}

/// Rewrites a whole template; text outside tags, comments and raw blocks stay as they are.
///
/// # Errors
/// The template is beyond what can be compiled safely.
pub fn adapt(source: &str) -> Result<String, TooComplex> {
    let mut elif_tags = 0;
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let (end, is_tag) = match rest.as_bytes().get(1) {
            Some(b'#') => (rest.find("#}").map_or(rest.len(), |end| end + 2), false),
            Some(b'{') => (tag_end(rest, "}}"), true),
            Some(b'%') if block_name(rest) == "raw" => (raw_end(rest), false),
            Some(b'%') => (tag_end(rest, "%}"), true),
            _ => (1, false),
        };
        if is_tag {
            let tag = &rest[..end];
            elif_tags += usize::from(tag.starts_with("{%") && block_name(tag) == "elif");
            let message = if code_bytes(tag) > TAG_BYTES_LIMIT {
                Some(format!(
                    "a tag of more than {TAG_BYTES_LIMIT} bytes beside its strings"
                ))
            } else if elif_tags > ELIF_LIMIT {
                Some(format!("more than {ELIF_LIMIT} elif"))
            } else {
                None
            };
            if let Some(message) = message {
                let line = source[..source.len() - rest.len()].matches('\n').count() + 1;
                return Err(TooComplex { line, message });
            }
            adapt_tag(tag, &mut out);
        } else {
            out.push_str(&rest[..end]);
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Length of a tag beside its strings.
fn code_bytes(tag: &str) -> usize {
    let (mut at, mut bytes) = (0, 0);
    while at < tag.len() {
        match tag.as_bytes()[at] {
            b'"' | b'\'' => at += string_bytes(&tag[at..]),
            _ => {
                at += 1;
                bytes += 1;
                while !tag.is_char_boundary(at) {
                    at += 1;
                }
            }
        }
    }
    bytes
}

/// The first word of a block tag.
fn block_name(tag: &str) -> &str {
    let inner = tag[2..].trim_start_matches(['-', '+']).trim_start();
    let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    &inner[..end.unwrap_or(inner.len())]
}

/// Length of a tag that starts `text`, strings inside it respected.
fn tag_end(text: &str, close: &str) -> usize {
    let mut at = 2;
    while at < text.len() {
        match text.as_bytes()[at] {
            b'"' | b'\'' => at += string_bytes(&text[at..]),
            _ if text[at..].starts_with(close) => {
                // `}}}` closes a dictionary and then the tag.
                let closes_dictionary = close == "}}" && text[at..].starts_with("}}}");
                return at + close.len() + usize::from(closes_dictionary);
            }
            _ => at += char_bytes(&text[at..]),
        }
    }
    text.len()
}

/// Length of a raw block that starts `text`, to the end of its `endraw` tag.
fn raw_end(text: &str) -> usize {
    let mut at = 2;
    while let Some(next) = text[at..].find("{%") {
        at += next;
        if block_name(&text[at..]) == "endraw" {
            return at + tag_end(&text[at..], "%}");
        }
        at += 2;
    }
    text.len()
}

fn char_bytes(text: &str) -> usize {
    text.chars().next().map_or(1, char::len_utf8)
}

/// Length of the quoted string that starts `text`, quotes included.
fn string_bytes(text: &str) -> usize {
    let quote = text.as_bytes()[0];
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if byte == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn adapt_tag(tag: &str, out: &mut String) {
    if tag.starts_with("{%") {
        let name = block_name(tag);
        let with = match name {
            "generation" => Some("with"),
            "endgeneration" => Some("endwith"),
            _ => None,
        };
        if let Some(with) = with {
            out.push_str(&tag.replacen(name, with, 1));
            return;
        }
    }
    adapt_expression(tag, out, 0);
}

fn adapt_expression(text: &str, out: &mut String, depth: usize) {
    let mut at = 0;
    while at < text.len() {
        if !matches!(text.as_bytes()[at], b'"' | b'\'') {
            let bytes = char_bytes(&text[at..]);
            out.push_str(&text[at..at + bytes]);
            at += bytes;
            continue;
        }
        let end = at + string_bytes(&text[at..]);
        out.push_str(&text[at..end]);
        at = end;
        let gap = text[at..].len() - text[at..].trim_start().len();
        let after = &text[at + gap..];
        if depth < DEPTH_LIMIT && after.starts_with('%') && !after.starts_with("%}") {
            let operand = &after[1..];
            let length = operand_bytes(operand);
            if !operand[..length].trim().is_empty() {
                out.push_str(&text[at..at + gap]);
                out.push_str(&format!("|{PRINTF_FILTER}("));
                adapt_expression(&operand[..length], out, depth + 1);
                out.push(')');
                at += gap + 1 + length;
            }
        }
    }
}

/// Length of the operand that starts `text`: a literal, name or bracket with what binds tighter
/// than `%` after it (attributes, subscripts, calls, filters).
fn operand_bytes(text: &str) -> usize {
    let mut at = text.len() - text.trim_start().len();
    if text[at..].starts_with('-') {
        at += 1;
    }
    at += match text.as_bytes().get(at) {
        Some(b'(' | b'[' | b'{') => bracket_bytes(&text[at..]),
        Some(b'"' | b'\'') => string_bytes(&text[at..]),
        _ => word_bytes(&text[at..]),
    };
    loop {
        let gap = text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at + gap..];
        match rest.as_bytes().first() {
            Some(b'(' | b'[') => at += gap + bracket_bytes(rest),
            Some(b'.' | b'|') => {
                let inner = rest[1..].len() - rest[1..].trim_start().len();
                at += gap + 1 + inner + word_bytes(&rest[1 + inner..]);
            }
            _ => return at,
        }
    }
}

fn word_bytes(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len())
}

/// Length of the bracketed expression that starts `text`.
fn bracket_bytes(text: &str) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < text.len() {
        match text.as_bytes()[at] {
            b'"' | b'\'' => {
                at += string_bytes(&text[at..]);
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += char_bytes(&text[at..]);
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::adapt;

    #[test]
    fn only_what_needs_it_is_rewritten() {
        for (source, expected) in [
            (
                "{%- generation -%}x{% endgeneration %}",
                "{%- with -%}x{% endwith %}",
            ),
            (
                "{{ '%s' % a.b[0]|upper ~ 'c' }}",
                "{{ '%s' |moeflux_printf( a.b[0]|upper) ~ 'c' }}",
            ),
            (
                "{{ '%s-%d' % ('a)', 1) }}",
                "{{ '%s-%d' |moeflux_printf( ('a)', 1)) }}",
            ),
            (
                "{{ '%s' % ('%s' % x) }}",
                "{{ '%s' |moeflux_printf( ('%s' |moeflux_printf( x))) }}",
            ),
            (
                "{{ 5 % 3 }} '%s' % x {# '%s' % x #}",
                "{{ 5 % 3 }} '%s' % x {# '%s' % x #}",
            ),
            (
                "{% raw %}{{ '%s' % x }}{% endraw %}",
                "{% raw %}{{ '%s' % x }}{% endraw %}",
            ),
            (
                "{% if x == 'a' %}{% set y = '}}%}' %}",
                "{% if x == 'a' %}{% set y = '}}%}' %}",
            ),
            ("{{ {'a': {'b': 1}}}} {", "{{ {'a': {'b': 1}}}} {"),
            ("{{ 'ä' % 'ö' }}ü{", "{{ 'ä' |moeflux_printf( 'ö') }}ü{"),
            ("{{ 'unfinished", "{{ 'unfinished"),
            ("{% raw %} {% open", "{% raw %} {% open"),
        ] {
            assert_eq!(adapt(source).unwrap(), expected);
        }
    }
}
