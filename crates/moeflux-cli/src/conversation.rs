//! One conversation: what was said, the session that holds it, and the next answer.
//!
//! Between turns the session stays. The whole conversation is rendered again by the template; what
//! the session holds must be a prefix of that, and only the rest is computed. Where it is no prefix
//! (a template that drops earlier thinking, say), the session is rewound as far as it can be, or
//! started anew: slower, never wrong.

use moeflux::draft::{DraftStats, Speculation};
use moeflux::generate::{End, Generation, Limits, Timings};
use moeflux::sampling::Sampler;
use moeflux::text::{ChatTemplate, Message, RenderOptions, TextStream};
use moeflux::{Error, Session};

use crate::args::GenerationArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::model::Model;
use crate::output::{self, Summary};
use crate::session_file::Talk;

/// Receives an answer's text piece by piece.
pub type Show<'a> = &'a mut dyn FnMut(&str) -> Result<(), Failure>;

/// A conversation with a model.
pub struct Conversation<'m> {
    model: &'m Model,
    session: Session,
    talk: Talk,
    sampler: Sampler,
    speculation: Speculation,
    max_tokens: usize,
    /// Whether to remember where each answer began, so that it can be taken back.
    checkpoints: bool,
}

/// A finished answer.
pub struct Answer {
    pub text: String,
    pub timings: Timings,
    pub drafts: DraftStats,
    /// `None` if the user stopped it.
    pub end: Option<End>,
    pub stats: moeflux::Stats,
}

impl<'m> Conversation<'m> {
    /// A conversation that starts with what `talk` holds (a system message, tools).
    pub fn new(model: &'m Model, talk: Talk, args: &GenerationArgs) -> Result<Self, Failure> {
        let sampler = Sampler::new(args.sampling(&model.generation.suggested))?;
        let session = model.engine.session();
        let max_tokens = args.max_tokens;
        Ok(Self {
            model,
            session,
            talk,
            sampler,
            speculation: Speculation::new(args.speculate),
            max_tokens,
            checkpoints: false,
        })
    }

    /// Remembers from now on where each answer begins: then a template that shows past answers
    /// otherwise (without their thinking, say) costs the last answer anew and not everything.
    pub fn keep_checkpoints(&mut self) {
        self.checkpoints = true;
    }

    /// Goes on with a saved conversation.
    pub fn restore(&mut self, talk: Talk, state: &[u8]) -> Result<(), Error> {
        self.session = match state.is_empty() {
            true => self.model.engine.session(),
            false => self.model.engine.restore(state)?,
        };
        self.talk = talk;
        if state.is_empty() {
            // What a server has answered is computed here with the next answer. Text and tokens may
            // be left from before that, when the conversation had a state.
            self.talk.text.clear();
            self.talk.pending = None;
        }
        Ok(())
    }

    /// Forgets what was said; a system message, tools and variables stay.
    pub fn reset(&mut self) {
        self.session = self.model.engine.session();
        self.talk.forget();
    }

    /// What was said and how far the session is.
    pub fn talk(&self) -> &Talk {
        &self.talk
    }

    /// The session's state, to be saved.
    ///
    /// # Errors
    /// If the state was on a device that is lost.
    pub fn state(&self) -> Result<Vec<u8>, moeflux::Error> {
        self.session.to_bytes()
    }

    /// Tokens held, and the most that can be.
    pub fn tokens(&self) -> (usize, usize) {
        (self.session.len(), self.session.context_tokens())
    }

    /// The line that sums an answer up.
    pub fn summary(&self, answer: &Answer) -> Summary<'_> {
        Summary {
            engine: &self.model.engine,
            stats: answer.stats.clone(),
            timings: answer.timings,
            speculate: self.speculation.mode(),
            drafts: answer.drafts,
            sampling: self.sampler.params(),
            end: answer.end,
        }
    }

    /// Says `prompt` and has it answered. After an error the prompt counts as not said.
    pub fn say(&mut self, prompt: &str, show: Show<'_>) -> Result<Answer, Failure> {
        if self.talk.raw {
            let mut tokens: Vec<u32> = self.talk.pending.into_iter().collect();
            tokens.extend(self.model.tokenizer.encode(prompt)?);
            return self.generate(&tokens, String::new(), None, show);
        }
        self.talk.messages.push(Message::new("user", prompt));
        let said = self.talk.messages.len();
        let result = self.answer_messages(show);
        match &result {
            Ok(answer) => {
                self.talk
                    .messages
                    .push(Message::new("assistant", &answer.text));
            }
            Err(_) => self.talk.messages.truncate(said - 1),
        }
        result
    }

    /// Answers the messages as they are, the last one being anybody's but the assistant's.
    pub fn answer_messages(&mut self, show: Show<'_>) -> Result<Answer, Failure> {
        let Some(template) = &self.model.template else {
            return Err(moeflux::text::TextError::NoTemplate {
                dir: self.model.dir.clone(),
            }
            .into());
        };
        let rendered = self.render(template)?;
        let tokens = self.tokens_for(&rendered)?;
        self.generate(&tokens, rendered, None, show)
    }

    /// Goes on with the last answer where it was cut.
    pub fn go_on(&mut self, show: Show<'_>) -> Result<Answer, Failure> {
        let Some(pending) = self.talk.pending else {
            let problem = "the saved session's last answer is complete; give a prompt".to_owned();
            return Err(Failure::Usage(problem));
        };
        let text = std::mem::take(&mut self.talk.text);
        let start = self.talk.answer_start;
        let answer = self.generate(&[pending], text, Some(start), show)?;
        if let Some(last) = self.talk.messages.last_mut()
            && last.role() == "assistant"
        {
            let whole = last.content().unwrap_or_default().to_owned() + &answer.text;
            last.set("content", whole.into());
        }
        Ok(answer)
    }

    fn render(&self, template: &ChatTemplate) -> Result<String, Failure> {
        let options = RenderOptions {
            tools: self.talk.tools.clone(),
            add_generation_prompt: true,
            variables: self.talk.variables.clone(),
        };
        Ok(template.render(&self.talk.messages, &options)?)
    }

    /// The tokens to compute so that the session holds `rendered`; takes the session back to where
    /// they belong.
    fn tokens_for(&mut self, rendered: &str) -> Result<Vec<u32>, Failure> {
        let tokenizer = &self.model.tokenizer;
        // Compared as text first: an answer's own tokens may differ from those of its text.
        if !self.talk.text.is_empty()
            && let Some(rest) = rendered.strip_prefix(&self.talk.text)
        {
            let mut tokens: Vec<u32> = self.talk.pending.into_iter().collect();
            tokens.extend(tokenizer.encode(rest)?);
            if !tokens.is_empty() {
                return Ok(tokens);
            }
        }
        let mut tokens = tokenizer.encode(rendered)?;
        let held = self.session.tokens();
        let common = held.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        // The last token is computed in any case: its logits begin the answer.
        let wanted = common.min(tokens.len().saturating_sub(1));
        self.rewind(wanted);
        tokens.drain(..self.session.len());
        Ok(tokens)
    }

    /// Takes the session back to `position`, or to the nearest place before it that it can reach.
    fn rewind(&mut self, position: usize) {
        let reached = match self.session.rewind(position) {
            Err(Error::Rewind {
                nearest: Some(nearest),
                ..
            }) if nearest <= position => self.session.rewind(nearest).is_ok(),
            result => result.is_ok(),
        };
        if !reached {
            self.session = self.model.engine.session();
        }
    }

    /// Computes `tokens`, then generates; `before` is the text of all tokens up to the answer, and
    /// `answer_start` the place of an answer that goes on.
    fn generate(
        &mut self,
        tokens: &[u32],
        before: String,
        answer_start: Option<usize>,
        show: Show<'_>,
    ) -> Result<Answer, Failure> {
        if tokens.is_empty() {
            return Err(Failure::Usage(
                "the prompt is empty; say something".to_owned(),
            ));
        }
        // Until the answer is done, nothing is known about what the session will hold.
        self.talk.text.clear();
        self.talk.pending = None;
        self.talk.answer_start = answer_start.unwrap_or(self.session.len() + tokens.len());
        let engine = &self.model.engine;
        engine.reset_stats();
        self.speculation.reset_stats();
        let limits = Limits {
            max_tokens: Some(self.max_tokens),
            stop_tokens: self.model.generation.stop_tokens.clone(),
            answer_start: Some(self.talk.answer_start),
        };
        let guard = interrupt::listen();
        let mut generation =
            Generation::new(engine, &mut self.session, tokens, &mut self.sampler, limits)?
                .speculate(&mut self.speculation);
        prefill(&mut generation, tokens.len(), &guard)?;
        if self.checkpoints && answer_start.is_none() {
            generation.session()?.checkpoint();
        }
        let mut stream = TextStream::new(&self.model.tokenizer, true);
        let (mut text, mut generated) = (String::new(), Vec::new());
        while !guard.stopped() {
            let Some(token) = generation.next_token()? else {
                break;
            };
            generated.push(token);
            let piece = stream.push(token)?;
            text += &piece;
            show(&piece)?;
        }
        let rest = stream.finish()?;
        text += &rest;
        show(&rest)?;
        let (timings, end) = (generation.timings(), generation.end());
        self.talk.pending = generation.pending();
        drop(generation);
        if !self.talk.raw && !before.is_empty() {
            self.talk.text = before + &self.model.tokenizer.decode(&generated, false)?;
        }
        Ok(Answer {
            text,
            timings,
            drafts: self.speculation.stats(),
            end,
            stats: engine.stats(),
        })
    }
}

/// Computes the prompt, with a bar once that takes longer than a second.
fn prefill(
    generation: &mut Generation<'_>,
    tokens: usize,
    guard: &interrupt::Guard,
) -> Result<(), Failure> {
    let start = std::time::Instant::now();
    let mut bar = None;
    loop {
        let left = generation.prefill_step()?;
        if left == 0 {
            break;
        }
        if guard.stopped() {
            return Err(Failure::Interrupted);
        }
        if bar.is_none() && start.elapsed().as_secs_f64() > 0.5 {
            bar = Some(output::count_bar(tokens as u64, "prompt tokens"));
        }
        if let Some(bar) = &bar {
            bar.set_position((tokens - left) as u64);
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(())
}
