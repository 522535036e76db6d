//! Which tokens begin a message, found out by having a conversation rendered.

use moeflux::text::{Message, RenderOptions};

use super::ServedModel;

impl ServedModel {
    /// The special tokens that begin a message of a conversation. A template that writes none, or
    /// changes what it wrote before as a conversation goes on, has none.
    pub fn openings(&self) -> Vec<u32> {
        let Some(template) = &self.template else {
            return Vec::new();
        };
        let render = |messages: &[Message], add_generation_prompt| {
            let options = RenderOptions {
                add_generation_prompt,
                ..RenderOptions::default()
            };
            let text = template.render(messages, &options).ok()?;
            self.tokenizer.encode(&text).ok()
        };
        let message = |role| Message::new(role, "one two");
        let mut openings = Vec::new();
        for roles in [
            &["system", "user", "assistant", "user"][..],
            &["user", "assistant", "user"],
        ] {
            let all: Vec<Message> = roles.iter().copied().map(message).collect();
            let mut texts: Vec<Option<Vec<u32>>> = (0..all.len())
                .map(|len| render(&all[..len], false))
                .collect();
            texts.push(render(&all, false));
            texts.push(render(&all, true));
            for pair in texts.windows(2) {
                let [Some(shorter), Some(longer)] = pair else {
                    continue;
                };
                let added = longer.strip_prefix(shorter.as_slice());
                let first = added.and_then(|added| added.first().copied());
                openings.extend(first.filter(|token| self.tokenizer.is_special(*token)));
            }
        }
        openings.sort_unstable();
        openings.dedup();
        openings
    }
}
