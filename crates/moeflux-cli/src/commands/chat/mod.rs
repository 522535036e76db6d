//! `moeflux chat`: many turns, one session.

mod input;
mod partner;

use std::path::{Path, PathBuf};

use clap::Args;
use moeflux::text::{SuggestedSampling, TextError};

use crate::args::{GenerationArgs, ModelArgs};
use crate::commands::run::SettingArgs;
use crate::conversation::Conversation;
use crate::failure::Failure;
use crate::key;
use crate::model::Model;
use crate::output;
use crate::remote::{RemoteConversation, Server};
use crate::session_file;
use input::Input;
use partner::{Local, Partner};

const HELP: &str = "\
/reset       forget what was said
/save FILE   write the conversation and its state
/load FILE   go on from a saved one
/stats       figures of the last answer
/exit        leave (or Ctrl-D); Ctrl-C stops an answer";

/// Flags of `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Talk with the model of a running moeflux serve instead, as http://127.0.0.1:8080
    #[arg(long, value_name = "URL", conflicts_with_all = ["ModelArgs", "speculate"])]
    server: Option<String>,
    /// The server's key; others can see it in the list of processes
    #[arg(
        long,
        value_name = "KEY",
        requires = "server",
        conflicts_with = "api_key_file"
    )]
    api_key: Option<String>,
    /// A file that holds the server's key [default: $MOEFLUX_API_KEY]
    #[arg(long, value_name = "FILE", requires = "server")]
    api_key_file: Option<PathBuf>,
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

/// Runs the command.
pub fn run(args: &ChatArgs) -> Result<(), Failure> {
    args.generation
        .sampling(&SuggestedSampling::default())
        .validate()?;
    let talk = args.setting.talk()?;
    if let Some(url) = &args.server {
        let key = key::given(args.api_key.as_deref(), args.api_key_file.as_deref())?;
        let server = Server::new(url, key.as_deref())?;
        return converse(
            Box::new(RemoteConversation::new(server, talk, &args.generation)?),
            args.stats,
        );
    }
    let model = Model::open(&args.model)?;
    if model.template.is_none() {
        return Err(TextError::NoTemplate { dir: model.dir }.into());
    }
    let mut conversation = Conversation::new(&model, talk, &args.generation)?;
    conversation.keep_checkpoints();
    let name = model.dir.display().to_string();
    converse(Box::new(Local { name, conversation }), args.stats)
}

/// Takes lines until the user leaves.
fn converse(partner: Box<dyn Partner + '_>, stats: bool) -> Result<(), Failure> {
    let mut input = Input::open()?;
    if input.is_terminal() {
        output::note(&format!("{}. /help lists commands.", partner.name()));
    }
    let mut chat = Chat {
        partner,
        last: None,
        stats,
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

struct Chat<'p> {
    partner: Box<dyn Partner + 'p>,
    last: Option<String>,
    stats: bool,
}

impl Chat<'_> {
    fn answer(&mut self, prompt: &str) -> Result<(), Failure> {
        let said = self.partner.say(prompt)?;
        output::line("")?;
        if said.stopped {
            output::note("(stopped)");
        }
        if self.stats {
            output::note(&said.summary);
        }
        self.last = Some(said.summary);
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
            "reset" => self.partner.reset(),
            "save" => {
                let path = file()?;
                let (talk, state) = self.partner.saved()?;
                session_file::save(path, talk, &state)?;
                output::note(&format!("saved to {}", path.display()));
            }
            "load" => {
                let path = file()?;
                let (talk, state) = session_file::load(path)?;
                let turns = talk.messages.len();
                self.partner
                    .restore(talk, &state)
                    .map_err(|problem| Failure::SessionFile {
                        path: path.into(),
                        problem,
                    })?;
                output::note(&format!("{turns} messages from {}", path.display()));
            }
            "stats" => {
                let (tokens, context) = self.partner.tokens();
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
