//! `moeflux run`: one prompt, one answer.

use std::io::{self, IsTerminal, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use moeflux::text::{Message, SuggestedSampling};
use serde_json::{Map, Value, json};

use crate::args::{GenerationArgs, ModelArgs};
use crate::conversation::Conversation;
use crate::failure::Failure;
use crate::model::Model;
use crate::output;
use crate::session_file::{self, Talk};

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The prompt; "-" or none reads standard input
    prompt: Option<String>,
    #[command(flatten)]
    setting: SettingArgs,
    /// Continue the text itself, without chat template
    #[arg(long, conflicts_with_all = ["system", "tools", "variables"])]
    raw: bool,
    /// Write the conversation and its state to a file afterwards
    #[arg(long, value_name = "FILE")]
    save_session: Option<PathBuf>,
    /// Go on from a saved conversation; without a prompt, with its last answer
    #[arg(long, value_name = "FILE", conflicts_with_all = ["raw", "system", "tools", "variables"])]
    load_session: Option<PathBuf>,
    /// Print one JSON object with the answer and its figures instead of streaming
    #[arg(long)]
    json: bool,
    /// Print the summing-up line even if standard error is no terminal
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    generation: GenerationArgs,
}

/// What a conversation starts with.
#[derive(Debug, Clone, Args)]
pub struct SettingArgs {
    /// A system message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// A JSON file with a list of tool schemas for the chat template
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,
    /// A variable for the chat template, as enable_thinking=false; JSON or plain text
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub variables: Vec<(String, Value)>,
}

impl SettingArgs {
    /// The conversation's beginning.
    pub fn talk(&self) -> Result<Talk, Failure> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        Ok(Talk {
            messages: system.collect(),
            tools: self.tools.as_deref().map(read_tools).transpose()?,
            variables: self
                .variables
                .iter()
                .cloned()
                .collect::<Map<String, Value>>(),
            ..Talk::default()
        })
    }

    /// Whether anything here needs a chat template.
    fn is_empty(&self) -> bool {
        self.system.is_none() && self.tools.is_none() && self.variables.is_empty()
    }
}

fn parse_variable(text: &str) -> Result<(String, Value), String> {
    let Some((name, value)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        return Err("write it as NAME=VALUE".to_owned());
    };
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((name.to_owned(), value))
}

fn read_tools(path: &Path) -> Result<Vec<Value>, Failure> {
    let problem = |problem: String| Failure::Input {
        path: path.into(),
        problem,
    };
    let bytes = std::fs::read(path).map_err(|source| Failure::File {
        action: "read",
        path: path.into(),
        source,
    })?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Array(tools)) if tools.iter().all(Value::is_object) => Ok(tools),
        Ok(_) => Err(problem(
            "not a list of tool schemas; write [{\"type\": ...}, ...]".into(),
        )),
        Err(error) => Err(problem(format!(
            "not JSON ({error}); write a list of tool schemas"
        ))),
    }
}

/// Runs the command.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    // Quick checks before slow loading.
    args.generation
        .sampling(&SuggestedSampling::default())
        .validate()?;
    let mut talk = args.setting.talk()?;
    let loaded = args
        .load_session
        .as_deref()
        .map(session_file::load)
        .transpose()?;
    let prompt = read_prompt(args.prompt.as_deref(), loaded.is_some())?;
    let model = Model::open(&args.model)?;
    if model.template.is_none() && !args.raw && loaded.is_none() {
        if !args.setting.is_empty() {
            let dir = model.dir.clone();
            return Err(moeflux::text::TextError::NoTemplate { dir }.into());
        }
        output::note("this model has no chat template: the prompt is continued as text (--raw)");
    }
    talk.raw = args.raw || model.template.is_none();
    let mut conversation = Conversation::new(&model, talk, &args.generation)?;
    if let (Some((talk, state)), Some(path)) = (loaded, &args.load_session) {
        conversation
            .restore(talk, &state)
            .map_err(|error| Failure::SessionFile {
                path: path.clone(),
                problem: error.to_string(),
            })?;
    }
    let mut show = |piece: &str| {
        if args.json {
            Ok(())
        } else {
            output::write(piece)
        }
    };
    let answer = match &prompt {
        Some(prompt) => conversation.say(prompt, &mut show)?,
        None => conversation.go_on(&mut show)?,
    };
    if !args.json {
        output::line("")?;
    }
    if let Some(path) = &args.save_session {
        session_file::save(path, conversation.talk(), &conversation.state()?)?;
    }
    let summary = conversation.summary(&answer);
    if args.json {
        let mut value = summary.json();
        if let Value::Object(fields) = &mut value {
            fields.shift_insert(0, "text".into(), json!(answer.text));
        }
        output::json(&value)?;
    }
    if args.stats || (output::attended() && !args.json) {
        output::note(&summary.text());
    }
    if answer.end.is_none() {
        Err(Failure::Interrupted)
    } else {
        Ok(())
    }
}

/// The prompt from the command line or standard input; `None` to go on with a saved answer.
fn read_prompt(given: Option<&str>, loaded: bool) -> Result<Option<String>, Failure> {
    match given {
        Some(prompt) if prompt != "-" => return Ok(Some(prompt.to_owned())),
        None if loaded => return Ok(None),
        None if io::stdin().is_terminal() => {
            let problem = "no prompt; give one, or pipe it to standard input";
            return Err(Failure::Usage(problem.to_owned()));
        }
        _ => {}
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(|error| {
        Failure::Terminal(format!(
            "cannot read the prompt from standard input: {error}"
        ))
    })?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(Some(text))
}
