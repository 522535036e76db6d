//! `moeflux eval answers`: prompts with known answers, answered greedily.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use moeflux::draft::Speculate;
use moeflux::text::Message;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::args::{GenerationArgs, ModelArgs};
use crate::conversation::Conversation;
use crate::failure::Failure;
use crate::model::Model;
use crate::output;
use crate::session_file::Talk;

/// Flags of `eval answers`.
#[derive(Debug, Args)]
pub struct AnswersArgs {
    /// A JSON list of prompts: objects with skill, messages, tools and expected
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// One prompt; other fields may be there.
#[derive(Debug, Deserialize)]
struct Prompt {
    skill: String,
    messages: Vec<Message>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
    expected: String,
}

#[derive(Debug, Default, Clone, Copy)]
struct Score {
    right: usize,
    all: usize,
}

impl Score {
    fn count(&mut self, right: bool) {
        self.all += 1;
        self.right += usize::from(right);
    }
}

fn read_prompts(path: &Path) -> Result<Vec<Prompt>, Failure> {
    let bytes = std::fs::read(path).map_err(|source| Failure::File {
        action: "read",
        path: path.into(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::Input {
        path: path.into(),
        problem: format!("{error}; write a list of objects with skill, messages and expected"),
    })
}

/// Runs the command.
pub fn run(args: &AnswersArgs) -> Result<(), Failure> {
    let prompts = read_prompts(&args.file)?;
    let model = Model::open(&args.model)?;
    let greedy = GenerationArgs {
        max_tokens: args.max_tokens,
        temperature: Some(0.0),
        top_k: None,
        top_p: None,
        min_p: None,
        repetition_penalty: None,
        presence_penalty: None,
        frequency_penalty: None,
        seed: Some(0),
        suggested: false,
        speculate: Speculate::default(),
    };
    let bar = output::count_bar(prompts.len() as u64, "answers");
    let mut skills: BTreeMap<String, Score> = BTreeMap::new();
    let mut total = Score::default();
    for prompt in prompts {
        let talk = Talk {
            messages: prompt.messages,
            tools: prompt.tools,
            ..Talk::default()
        };
        let mut conversation = Conversation::new(&model, talk, &greedy)?;
        let answer = conversation.answer_messages(&mut |_| Ok(()))?;
        if answer.end.is_none() {
            return Err(Failure::Interrupted);
        }
        let right = answer.text.trim() == prompt.expected.trim();
        if !right {
            let (found, expected) = (answer.text.trim(), prompt.expected.trim());
            bar.suspend(|| {
                output::note(&format!(
                    "{}: {found:?}, expected {expected:?}",
                    prompt.skill
                ));
            });
        }
        skills.entry(prompt.skill).or_default().count(right);
        total.count(right);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if args.json {
        let object = |score: &Score| json!({"right": score.right, "all": score.all});
        let skills: Map<String, Value> = skills
            .iter()
            .map(|(skill, score)| (skill.clone(), object(score)))
            .collect();
        return output::json(&json!({"right": total.right, "all": total.all, "skills": skills}));
    }
    for (skill, score) in &skills {
        output::line(&format!("{skill:<14} {} / {}", score.right, score.all))?;
    }
    output::line(&format!("{:<14} {} / {}", "all", total.right, total.all))
}
