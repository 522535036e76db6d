//! The answers to one request, as they come from the scheduler.

use moeflux::text::TextStream;
use tokio::sync::mpsc::UnboundedReceiver;

use super::{Delta, OutputParser, StopMatcher};
use crate::model::ServedModel;
use crate::scheduler::{End, Event, JobError, Sampled};

/// Why an answer ended, as protocols tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// By itself.
    Stop,
    /// By this stop sequence.
    StopSequence(String),
    /// It has as many tokens as allowed.
    Length,
    /// To have tools called.
    ToolCalls,
}

/// What is new about one of the answers.
#[derive(Clone, Debug)]
pub struct Update {
    /// Which answer, from 0.
    pub choice: usize,
    /// Its new pieces.
    pub deltas: Vec<Delta>,
    /// The token that they came with.
    pub sampled: Option<Sampled>,
    /// Whether it has ended, and why.
    pub finish: Option<Finish>,
}

struct Choice<'m> {
    text: TextStream<'m>,
    stops: StopMatcher,
    parser: OutputParser,
    ended: bool,
}

/// All answers to one request. Dropping it ends the request.
pub struct Answers<'m> {
    events: UnboundedReceiver<Event>,
    choices: Vec<Choice<'m>>,
    tokens: usize,
    reasoning_tokens: usize,
    cached_tokens: usize,
    one_call: bool,
}

impl<'m> Answers<'m> {
    /// The answers that `events` tells of; `parser` makes what splits one answer's text.
    pub fn new(
        model: &'m ServedModel,
        events: UnboundedReceiver<Event>,
        choices: usize,
        stops: &[String],
        parser: impl Fn() -> OutputParser,
    ) -> Answers<'m> {
        let choice = |_| Choice {
            text: TextStream::new(&model.tokenizer, true),
            stops: StopMatcher::new(stops.to_vec()),
            parser: parser(),
            ended: false,
        };
        Answers {
            events,
            choices: (0..choices).map(choice).collect(),
            tokens: 0,
            reasoning_tokens: 0,
            cached_tokens: 0,
            one_call: false,
        }
    }

    /// Whether an answer may call several tools; otherwise it ends behind the first call.
    #[must_use]
    pub fn parallel_calls(mut self, parallel: bool) -> Answers<'m> {
        self.one_call = !parallel;
        self
    }

    /// Tokens of all answers so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Tokens of all answers so far in which the model thought before it spoke.
    pub fn reasoning_tokens(&self) -> usize {
        self.reasoning_tokens
    }

    /// Tokens of the prompt that did not have to be computed, as far as is known yet.
    pub fn cached_tokens(&self) -> usize {
        self.cached_tokens
    }

    /// Waits until the request has its turn, so that [`Answers::cached_tokens`] is known; to be
    /// called before all else.
    ///
    /// # Errors
    /// The request failed; nothing follows.
    pub async fn begin(&mut self) -> Result<(), JobError> {
        match self.events.recv().await {
            Some(Event::Begin { cached_tokens }) => self.cached_tokens += cached_tokens,
            Some(Event::Failed(error)) => return Err(error),
            Some(Event::Token { .. } | Event::End { .. }) | None => return Err(JobError::Stopped),
        }
        Ok(())
    }

    /// What is new; `None` once all answers have ended.
    ///
    /// # Errors
    /// The request failed; nothing follows.
    pub async fn next(&mut self) -> Result<Option<Update>, JobError> {
        loop {
            if self.choices.iter().all(|c| c.ended) {
                return Ok(None);
            }
            let event = self.events.recv().await.ok_or(JobError::Stopped)?;
            let update = match event {
                Event::Failed(error) => return Err(error),
                Event::Begin { cached_tokens } => {
                    self.cached_tokens += cached_tokens;
                    None
                }
                Event::Token { choice, sampled } => self.token(choice, sampled)?,
                Event::End { choice, end } => self.end(choice, end)?,
            };
            if update.is_some() {
                return Ok(update);
            }
        }
    }

    fn token(&mut self, number: usize, sampled: Sampled) -> Result<Option<Update>, JobError> {
        let Some(choice) = self.choices.get_mut(number).filter(|c| !c.ended) else {
            return Ok(None);
        };
        self.tokens += 1;
        let piece = choice.text.push(sampled.token).map_err(text_error)?;
        let matched = choice.stops.push(&piece);
        let reasoned = choice.parser.is_reasoning();
        let mut deltas = choice.parser.push(&matched.text);
        if reasoned || choice.parser.is_reasoning() {
            self.reasoning_tokens += 1;
        }
        let mut finish = matched.stop.map(Finish::StopSequence);
        if finish.is_none() && self.one_call && choice.parser.calls() > 0 {
            finish = Some(Finish::ToolCalls);
        }
        if finish.is_some() {
            deltas.extend(choice.parser.finish());
            choice.ended = true;
        }
        Ok(Some(Update {
            choice: number,
            deltas,
            sampled: Some(sampled),
            finish,
        }))
    }

    fn end(&mut self, number: usize, end: End) -> Result<Option<Update>, JobError> {
        let Some(choice) = self.choices.get_mut(number).filter(|c| !c.ended) else {
            return Ok(None);
        };
        choice.ended = true;
        let rest = choice.text.finish().map_err(text_error)?;
        let mut matched = choice.stops.push(&rest);
        if matched.stop.is_none() {
            matched.text.push_str(&choice.stops.finish());
        }
        let mut deltas = choice.parser.push(&matched.text);
        deltas.extend(choice.parser.finish());
        let finish = match (end, matched.stop) {
            (_, Some(sequence)) => Finish::StopSequence(sequence),
            (End::Stop, None) if choice.parser.calls() > 0 => Finish::ToolCalls,
            (End::Stop, None) => Finish::Stop,
            (End::Length, None) => Finish::Length,
        };
        Ok(Some(Update {
            choice: number,
            deltas,
            sampled: None,
            finish: Some(finish),
        }))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn text_error(error: moeflux::text::TextError) -> JobError {
    JobError::Engine(error.to_string())
}
