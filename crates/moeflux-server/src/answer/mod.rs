//! From tokens to what a protocol sends: text without stop sequences, reasoning and tool calls
//! split out of it.

mod parser;
mod run;
mod stop;
pub mod tools;

pub use parser::{Delta, OutputParser};
pub use run::{Answers, Finish, Update};
pub use stop::StopMatcher;

/// The longest end of `text` that may be the start of one of `tags`, in bytes.
fn open_tag<'t>(text: &str, tags: impl Iterator<Item = &'t str> + Clone) -> usize {
    let longest = tags.clone().map(str::len).max().unwrap_or(0);
    let begin = text.len().saturating_sub(longest.saturating_sub(1));
    (begin..text.len())
        .filter(|&at| text.is_char_boundary(at))
        .find(|&at| tags.clone().any(|tag| tag.starts_with(&text[at..])))
        .map_or(0, |at| text.len() - at)
}

#[cfg(test)]
mod tests {
    use super::open_tag;

    #[test]
    fn a_tag_may_begin_at_the_end() {
        let tags = ["<tool_call>", "</think>"];
        for (text, open) in [
            ("", 0),
            ("a<", 1),
            ("a<tool_call", 10),
            ("a</t", 3),
            ("é<x", 0),
        ] {
            assert_eq!(open_tag(text, tags.into_iter()), open, "{text}");
        }
        assert_eq!(open_tag("abab", ["abac"].into_iter()), 2);
    }
}
