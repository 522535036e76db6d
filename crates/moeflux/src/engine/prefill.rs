//! Prompts: many tokens of one session, in as many steps as memory asks for.

use super::{Best, Engine, Logits, Observe, Span, Want, Watch};
use crate::Error;
use crate::backend::ExpertSquares;
use crate::graph::{BufferPool, Op};
use crate::session::Session;

impl Engine {
    /// Runs `tokens` in as many steps as the scratch memory needs; the answer does not depend on
    /// how many that is.
    ///
    /// # Errors
    /// As [`Engine::forward`]. The session then holds the tokens of the steps before the one that
    /// failed; [`Session::len`] tells how many.
    pub fn prefill(
        &self,
        session: &mut Session,
        tokens: &[u32],
        want: Want,
    ) -> Result<Logits, Error> {
        self.prefill_steps(session, tokens, want, None)
    }

    /// How many of `tokens` tokens of a prompt [`Engine::prefill`] would run at once for `session`
    /// now, for callers that make the steps themselves.
    pub fn prompt_chunk(&self, session: &Session, tokens: usize) -> usize {
        self.next_chunk(session, tokens, Want::Last)
    }

    /// [`Engine::prefill`], showing each operation's results as [`Engine::forward_observed`] does.
    ///
    /// # Errors
    /// As [`Engine::prefill`].
    pub fn prefill_observed(
        &self,
        session: &mut Session,
        tokens: &[u32],
        want: Want,
        observe: &mut dyn FnMut(&Op, &BufferPool),
    ) -> Result<Logits, Error> {
        self.prefill_steps(session, tokens, want, Some(observe))
    }

    /// From now on what experts are given is added up in `squares`.
    pub(crate) fn record_squares(&self, squares: ExpertSquares) {
        self.lock().stage.squares = Some(squares);
    }

    /// Ends that; gives the sums.
    pub(crate) fn recorded_squares(&self) -> Option<ExpertSquares> {
        self.lock().stage.squares.take()
    }

    /// Runs one token of an answer and gives its logits.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn decode(&self, session: &mut Session, token: u32) -> Result<Logits, Error> {
        self.decode_step(session, token, None)
    }

    /// [`Engine::decode`], showing each operation's results as [`Engine::forward_observed`] does.
    ///
    /// # Errors
    /// As [`Engine::decode`].
    pub fn decode_observed(
        &self,
        session: &mut Session,
        token: u32,
        observe: &mut dyn FnMut(&Op, &BufferPool),
    ) -> Result<Logits, Error> {
        self.decode_step(session, token, Some(observe))
    }

    /// [`Engine::decode`] where only the most likely token is wanted, the lowest one among equals:
    /// that, if the backend finds it, or the logits.
    ///
    /// # Errors
    /// As [`Engine::decode`].
    pub fn decode_best(&self, session: &mut Session, token: u32) -> Result<Best, Error> {
        let span = Span {
            session,
            tokens: &[token],
            want: Want::Last,
            is_prompt: false,
        };
        let mut best = None;
        let mut all = self.step(&mut [span], false, Watch::Best(&mut best))?;
        Ok(match best.and_then(|best| best.first().copied()) {
            Some(token) => Best::Token(token),
            None => Best::Logits(all.pop().unwrap_or_default()),
        })
    }

    fn decode_step(
        &self,
        session: &mut Session,
        token: u32,
        observe: Option<Observe<'_>>,
    ) -> Result<Logits, Error> {
        let span = Span {
            session,
            tokens: &[token],
            want: Want::Last,
            is_prompt: false,
        };
        let mut all = self.step(&mut [span], false, observe.into())?;
        Ok(all.pop().unwrap_or_default())
    }

    fn prefill_steps(
        &self,
        session: &mut Session,
        tokens: &[u32],
        want: Want,
        mut observe: Option<Observe<'_>>,
    ) -> Result<Logits, Error> {
        self.check(session, tokens)?;
        self.check_memory(session, tokens.len())?;
        let mut all = Logits {
            rows: 0,
            vocab: self.info.vocab_size,
            values: Vec::new(),
        };
        let mut rest = tokens;
        while !rest.is_empty() {
            let (tokens, after) = rest.split_at(self.next_chunk(session, rest.len(), want));
            let want = match want {
                Want::Last if !after.is_empty() => Want::None,
                want => want,
            };
            rest = after;
            let span = Span {
                session: &mut *session,
                tokens,
                want,
                is_prompt: true,
            };
            // A plain reborrow: `as_deref_mut` would ask for the closure's own lifetime.
            let observe: Option<Observe<'_>> = match &mut observe {
                Some(observe) => Some(&mut **observe),
                None => None,
            };
            for logits in self.step(&mut [span], !rest.is_empty(), observe.into())? {
                all.rows += logits.rows;
                if all.values.is_empty() {
                    all.values = logits.values;
                } else {
                    all.values.extend_from_slice(&logits.values);
                    self.recycle(logits);
                }
            }
        }
        Ok(all)
    }
}
