//! `moeflux chat`: many turns, one session.

use std::io::{self, BufRead as _, IsTerminal};
use std::path::Path;

use clap::Args;
use moeflux::text::{SuggestedSampling, TextError};
use rustyline::error::ReadlineError;
use rustyline::{Behavior, Config, DefaultEditor};

use crate::args::{GenerationArgs, ModelArgs};
use crate::commands::run::SettingArgs;
use crate::conversation::Conversation;
use crate::failure::Failure;
use crate::model::Model;
use crate::output;
use crate::session_file;

const HELP: &str = "\
/reset       forget what was said
/save FILE   write the conversation and its state
/load FILE   go on from a saved one
/stats       figures of the last answer
/exit        leave (or Ctrl-D); Ctrl-C stops an answer";

/// Flags of `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    setting: SettingArgs,
    /// Print figures after every answer
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    generation: GenerationArgs,
}

/// Where the user's lines come from.
enum Input {
    Terminal(Box<DefaultEditor>),
    Pipe(io::StdinLock<'static>),
}

impl Input {
    fn open() -> Result<Self, Failure> {
        if !io::stdin().is_terminal() {
            return Ok(Input::Pipe(io::stdin().lock()));
        }
        let config = Config::builder()
            .behavior(Behavior::PreferTerm)
            .auto_add_history(true)
            .bracketed_paste(true)
            .build();
        let editor = DefaultEditor::with_config(config)
            .map_err(|error| Failure::Terminal(format!("cannot use the terminal: {error}")))?;
        Ok(Input::Terminal(Box::new(editor)))
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal(_))
    }

    /// The next line, `None` at the end.
    fn line(&mut self) -> Result<Option<String>, Failure> {
        match self {
            Input::Pipe(stdin) => {
                let mut line = String::new();
                match stdin.read_line(&mut line) {
                    Ok(0) => Ok(None),
                    Ok(_) => Ok(Some(line)),
                    Err(error) => Err(Failure::Terminal(format!(
                        "cannot read standard input: {error}"
                    ))),
                }
            }
            Input::Terminal(editor) => loop {
                match editor.readline("> ") {
                    Ok(line) => return Ok(Some(line)),
                    Err(ReadlineError::Interrupted) => output::note("(/exit or Ctrl-D leaves)"),
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(ReadlineError::Signal(_)) => {}
                    Err(error) => {
                        return Err(Failure::Terminal(format!("cannot read a line: {error}")));
                    }
                }
            },
        }
    }
}

/// Runs the command.
pub fn run(args: &ChatArgs) -> Result<(), Failure> {
    args.generation
        .sampling(&SuggestedSampling::default())
        .validate()?;
    let talk = args.setting.talk()?;
    let model = Model::open(&args.model)?;
    if model.template.is_none() {
        return Err(TextError::NoTemplate { dir: model.dir }.into());
    }
    let mut conversation = Conversation::new(&model, talk, &args.generation)?;
    conversation.keep_checkpoints();
    let mut input = Input::open()?;
    if input.is_terminal() {
        output::note(&format!("{}. /help lists commands.", model.dir.display()));
    }
    let mut chat = Chat {
        conversation,
        last: None,
        stats: args.stats,
    };
    while let Some(line) = input.line()? {
        let line = line.trim();
        let result = match line.strip_prefix('/') {
            _ if line.is_empty() => continue,
            Some("exit" | "quit") => break,
            Some(command) => chat.command(command),
            None => chat.answer(line),
        };
        match result {
            // At a terminal the user reads what went wrong and goes on; a script must not.
            Err(failure) if input.is_terminal() && !matches!(failure, Failure::BrokenPipe) => {
                output::note(&format!("error: {failure}"));
            }
            other => other?,
        }
    }
    Ok(())
}

struct Chat<'m> {
    conversation: Conversation<'m>,
    last: Option<String>,
    stats: bool,
}

impl Chat<'_> {
    fn answer(&mut self, prompt: &str) -> Result<(), Failure> {
        let answer = self.conversation.say(prompt, &mut output::write)?;
        output::line("")?;
        let summary = self.conversation.summary(&answer).text();
        if answer.end.is_none() {
            output::note("(stopped)");
        }
        if self.stats {
            output::note(&summary);
        }
        self.last = Some(summary);
        Ok(())
    }

    fn command(&mut self, command: &str) -> Result<(), Failure> {
        let (name, argument) = command
            .split_once(char::is_whitespace)
            .unwrap_or((command, ""));
        let file = || match argument.trim() {
            "" => Err(Failure::Usage(format!("/{name} needs a file name"))),
            name => Ok(Path::new(name)),
        };
        match name {
            "reset" => self.conversation.reset(),
            "save" => {
                let path = file()?;
                session_file::save(path, self.conversation.talk(), &self.conversation.state()?)?;
                output::note(&format!("saved to {}", path.display()));
            }
            "load" => {
                let path = file()?;
                let (talk, state) = session_file::load(path)?;
                let turns = talk.messages.len();
                self.conversation
                    .restore(talk, &state)
                    .map_err(|error| Failure::SessionFile {
                        path: path.into(),
                        problem: error.to_string(),
                    })?;
                output::note(&format!("{turns} messages from {}", path.display()));
            }
            "stats" => {
                let (tokens, context) = self.conversation.tokens();
                let last = self.last.as_deref().unwrap_or("no answer yet");
                output::note(&format!(
                    "{last}\n{tokens} of {context} context tokens used"
                ));
            }
            "help" => output::note(HELP),
            _ => {
                return Err(Failure::Usage(format!(
                    "no command /{name}; there are:\n{HELP}"
                )));
            }
        }
        Ok(())
    }
}
