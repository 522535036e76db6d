//! Incremental decoding: tokens in, text out as soon as it can no longer change.
//!
//! A token may end in the middle of a character. Its decoded text then ends in U+FFFD, and that tail
//! is withheld until later tokens complete it. Joined, the pieces are the text of all tokens.

use super::{TextError, Tokenizer};

/// A character of UTF-8 has at most three bytes before its last, so at most this many
/// replacement characters can still turn into something else.
const OPEN_CHARACTERS: usize = 3;
/// Tokens kept when text stays incomplete for longer than any character can.
const CONTEXT_TOKENS: usize = 8;
/// Tokens after which incomplete text is taken for invalid bytes.
const WINDOW_TOKENS: usize = 64;

/// Turns the tokens of one generation into text.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The tokens whose text may still matter: those already shown (context for decoders that
    /// look back) and those not shown yet.
    window: Vec<u32>,
    /// Length of the window's context in tokens.
    context: usize,
    /// Bytes of the window's text already given out.
    emitted: usize,
}

impl<'a> TextStream<'a> {
    /// An empty stream; `skip_special` leaves special tokens out of the text.
    pub fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            window: Vec::new(),
            context: 0,
            emitted: 0,
        }
    }

    /// Adds a token and returns the text that is now certain, often one word, sometimes nothing.
    ///
    /// # Errors
    /// The tokenizer's decoder refuses the token.
    pub fn push(&mut self, token: u32) -> Result<String, TextError> {
        self.window.push(token);
        let text = self.tokenizer.decode(&self.window, self.skip_special)?;
        let open = text
            .chars()
            .rev()
            .take(OPEN_CHARACTERS)
            .take_while(|c| *c == '\u{fffd}')
            .count();
        let certain = text.len() - open * '\u{fffd}'.len_utf8();
        let piece = text
            .get(self.emitted..certain)
            .unwrap_or_default()
            .to_owned();
        self.emitted = self.emitted.max(certain);
        let is_long = self.window.len() > WINDOW_TOKENS;
        // Tokens without text are no context: what follows them would pass for a beginning, where
        // some decoders drop a space.
        if open == 0 && (is_long || !piece.is_empty()) {
            self.start_window(self.context)?;
        } else if open > 0 && is_long {
            let withheld = text.len() - certain;
            self.start_window(self.window.len() - CONTEXT_TOKENS)?;
            self.emitted = self.emitted.saturating_sub(withheld);
        }
        Ok(piece)
    }

    /// The rest: an incomplete character at the very end comes out as U+FFFD.
    ///
    /// # Errors
    /// The tokenizer's decoder refuses the tokens.
    pub fn finish(&mut self) -> Result<String, TextError> {
        let text = self.tokenizer.decode(&self.window, self.skip_special)?;
        let piece = text.get(self.emitted..).unwrap_or_default().to_owned();
        self.window.clear();
        self.context = 0;
        self.emitted = 0;
        Ok(piece)
    }

    /// Drops the first `count` tokens of the window; what stays is context.
    fn start_window(&mut self, count: usize) -> Result<(), TextError> {
        self.window.drain(..count);
        self.context = self.window.len();
        self.emitted = self
            .tokenizer
            .decode(&self.window, self.skip_special)?
            .len();
        Ok(())
    }
}
