//! The bytes of every token.
//!
//! Byte-level tokenizers write each byte as a character: printable ones as themselves, the others
//! as those from U+0100 on. Added tokens are written as they are.

use moeflux::text::Tokenizer;

/// A token as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenBytes {
    /// Bytes of text.
    Text(Vec<u8>),
    /// A mark that text does not have, by its name.
    Special(String),
    /// No token has this id.
    Unused,
}

/// The tokens of a model by their ids.
#[derive(Debug)]
pub struct Vocabulary {
    tokens: Vec<TokenBytes>,
}

impl Vocabulary {
    /// The vocabulary of a model with `size` rows of logits.
    pub fn of(tokenizer: &Tokenizer, size: usize) -> Vocabulary {
        let bytes = byte_table();
        let token = |id: usize| {
            let id = id as u32;
            let Some(name) = tokenizer.id_to_token(id) else {
                return TokenBytes::Unused;
            };
            if tokenizer.decode(&[id], true).is_ok_and(|t| t.is_empty()) {
                return TokenBytes::Special(name);
            }
            // An added token is one token also when it is given as text.
            let is_added = name.starts_with('<') && name.ends_with('>') && name.len() > 2;
            let mapped = name.chars().map(|c| bytes.iter().position(|b| *b == c));
            let mapped: Option<Vec<u8>> = mapped.map(|at| at.map(|at| at as u8)).collect();
            match mapped {
                Some(mapped) if !is_added => TokenBytes::Text(mapped),
                _ => match tokenizer.decode(&[id], false) {
                    Ok(text) => TokenBytes::Text(text.into_bytes()),
                    Err(_) => TokenBytes::Unused,
                },
            }
        };
        Vocabulary {
            tokens: (0..size).map(token).collect(),
        }
    }

    /// Tokens by their ids.
    pub fn tokens(&self) -> &[TokenBytes] {
        &self.tokens
    }

    /// The bytes of a token; a mark's name.
    pub fn bytes(&self, token: u32) -> &[u8] {
        match self.tokens.get(token as usize) {
            Some(TokenBytes::Text(bytes)) => bytes,
            Some(TokenBytes::Special(name)) => name.as_bytes(),
            Some(TokenBytes::Unused) | None => &[],
        }
    }
}

/// The character that stands for each byte.
fn byte_table() -> Vec<char> {
    let mut others = (0x100_u32..).filter_map(char::from_u32);
    let one = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => others.next().unwrap_or('\u{fffd}'),
    };
    (0..=u8::MAX).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::byte_table;

    #[test]
    fn each_byte_has_its_character() {
        let table = byte_table();
        assert_eq!(table[usize::from(b' ')], 'Ġ');
        assert_eq!(table[usize::from(b'\n')], 'Ċ');
        assert_eq!(table[usize::from(b'a')], 'a');
        let mut sorted = table.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 256);
    }
}
