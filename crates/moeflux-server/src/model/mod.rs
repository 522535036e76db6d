//! The served model: its engine, and what lies between text and tokens.

mod openings;
mod vocabulary;

pub use vocabulary::{TokenBytes, Vocabulary};

use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use llguidance::ParserFactory;
use moeflux::Engine;
use moeflux::text::{ChatTemplate, GenerationConfig, Message, RenderOptions, TextError, Tokenizer};
use serde_json::{Map, Value, json};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::answer::tools::{Tool, ToolFormat};
use crate::constraint;

/// Bytes of text that take so long to encode that other connections must not wait for it.
const LONG_TEXT: usize = 64 << 10;

/// A model with its text files.
pub struct ServedModel {
    /// Names under which clients may ask for it, at least one; the first is the one told.
    pub names: Vec<String>,
    /// The loaded model.
    pub engine: Arc<Engine>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template; without one there are only completions of text.
    pub template: Option<ChatTemplate>,
    /// Its stop tokens and suggested sampling.
    pub generation: GenerationConfig,
    /// How it writes calls of tools; `None` if it cannot, or in a way that is not known.
    pub tool_format: Option<ToolFormat>,
    /// Whether it may begin an answer by reasoning.
    pub reasons: bool,
    /// When it was opened, in seconds since 1970.
    pub created: u64,
    vocabulary: OnceLock<Arc<Vocabulary>>,
    grammars: OnceLock<Result<Arc<ParserFactory>, String>>,
}

/// A conversation as the model sees it.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Whether the answer begins within reasoning.
    pub reasoning: bool,
}

impl ServedModel {
    /// Puts a model together; `names` must not be empty.
    pub fn new(
        names: Vec<String>,
        engine: Engine,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        generation: GenerationConfig,
    ) -> ServedModel {
        let tool_format = template.as_ref().and_then(tool_format);
        let reasons = tokenizer.token_to_id("</think>").is_some();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        ServedModel {
            names,
            engine: Arc::new(engine),
            tokenizer,
            template,
            generation,
            tool_format,
            reasons,
            created: now.map_or(0, |time| time.as_secs()),
            vocabulary: OnceLock::new(),
            grammars: OnceLock::new(),
        }
    }

    /// The name that clients are told.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// The most tokens of prompt and answer together.
    pub fn context_tokens(&self) -> usize {
        self.engine.context_tokens()
    }

    /// The bytes of every token.
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        self.vocabulary.get_or_init(|| {
            let size = self.engine.info().vocab_size;
            Arc::new(Vocabulary::of(&self.tokenizer, size))
        })
    }

    /// What compiles grammars for the model's tokens.
    ///
    /// # Errors
    /// The vocabulary cannot be used for grammars.
    pub fn grammars(&self) -> Result<&Arc<ParserFactory>, String> {
        let factory = || constraint::factory(self).map(Arc::new);
        self.grammars
            .get_or_init(factory)
            .as_ref()
            .map_err(Clone::clone)
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// The tokenizer does not take it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encode = || self.tokenizer.encode(text);
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) if text.len() >= LONG_TEXT => {
                tokio::task::block_in_place(encode)
            }
            _ => encode(),
        }
    }

    /// Renders a conversation and encodes it.
    ///
    /// # Errors
    /// There is no template, or it does not take this conversation.
    pub fn prompt(
        &self,
        messages: &[Message],
        tools: &[Tool],
        variables: Map<String, Value>,
        continues: bool,
    ) -> Result<Prompt, TextError> {
        let Some(template) = &self.template else {
            let dir = self.name().into();
            return Err(TextError::NoTemplate { dir });
        };
        let options = RenderOptions {
            tools: (!tools.is_empty()).then(|| tools.iter().map(Tool::for_template).collect()),
            add_generation_prompt: continues,
            variables,
        };
        let text = template.render(messages, &options)?;
        Ok(Prompt {
            tokens: self.encode(&text)?,
            reasoning: self.reasons && text.trim_end().ends_with("<think>"),
        })
    }
}

/// Finds out how calls are written by having one rendered.
fn tool_format(template: &ChatTemplate) -> Option<ToolFormat> {
    const NAME: &str = "name_of_a_function";
    let tool = Tool {
        name: NAME.to_owned(),
        description: Some(String::new()),
        parameters: json!({"type": "object", "properties": {"place": {"type": "string"}}}),
        strict: false,
    };
    let mut call = Message::new("assistant", "");
    let function = json!({"name": NAME, "arguments": {"place": "here"}});
    let calls = json!([{"id": "call_1", "type": "function", "function": function}]);
    call.set("tool_calls", calls);
    let messages = [Message::new("user", "where"), call];
    let without = RenderOptions::default();
    // Tools are not offered here, so that an example in the instructions is not taken for it.
    let text = template.render(&messages, &without).or_else(|_| {
        let with = RenderOptions {
            tools: Some(vec![tool.for_template()]),
            ..RenderOptions::default()
        };
        template.render(&messages, &with)
    });
    ToolFormat::of_call(&text.ok()?, NAME)
}
