//! Chat templates: messages to the text that the model was trained on.
//!
//! Templates are Jinja as transformers runs it: whitespace trimmed around blocks, `tojson` as
//! Python's `json.dumps`, `raise_exception`, `strftime_now`, Python's string methods, `%` formatting
//! of string literals, and `{% generation %}` accepted and ignored. Golden renderings made by
//! transformers check it (`tests/templates.rs`).

mod clock;
mod json;
mod kinds;
mod methods;
mod source;

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde_json::{Map, Value};

use super::generation_config::token_text;
use super::{Message, TextError, read_json, read_optional};

/// Name of the template used without tools, and with them if there is no other.
const DEFAULT: &str = "default";
/// Name of the template that takes precedence when tools are given.
const TOOL_USE: &str = "tool_use";
/// How Jinja2 writes what is not there.
const NONE: &str = "None";

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
    tokens: Map<String, Value>,
}

/// What a rendering may have besides messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// Tool schemas, each an object; `None` and an empty list differ as in transformers.
    pub tools: Option<Vec<Value>>,
    /// Ends the text with the start of an assistant's message.
    pub add_generation_prompt: bool,
    /// Variables for the template, for example `enable_thinking`.
    pub variables: Map<String, Value>,
}

impl ChatTemplate {
    /// Opens a model directory's template: `chat_template.jinja`, or `chat_template` in
    /// `tokenizer_config.json` (one text, or a list of named ones).
    ///
    /// # Errors
    /// There is none ([`TextError::NoTemplate`]), a file is unreadable, or it does not compile.
    pub fn open(dir: &Path) -> Result<Self, TextError> {
        let config_path = dir.join("tokenizer_config.json");
        let config = read_json(&config_path)?.unwrap_or_default();
        let tokens = special_tokens(&config);
        let path = dir.join("chat_template.jinja");
        if let Some(source) = read_optional(&path)? {
            return Self::compile(path, &[(DEFAULT, &source)], tokens);
        }
        let invalid = |message: &str| TextError::Invalid {
            path: config_path.clone(),
            message: format!("field \"chat_template\" {message}"),
        };
        match config.get("chat_template") {
            None | Some(Value::Null) => Err(TextError::NoTemplate { dir: dir.into() }),
            Some(Value::String(source)) => Self::compile(config_path, &[(DEFAULT, source)], tokens),
            Some(Value::Array(list)) => {
                let mut sources = Vec::new();
                for entry in list {
                    let field = |name| entry.get(name).and_then(Value::as_str);
                    match (field("name"), field("template")) {
                        (Some(name), Some(template)) => sources.push((name, template)),
                        _ => return Err(invalid("holds an entry without name and template")),
                    }
                }
                if !sources.iter().any(|(name, _)| *name == DEFAULT) {
                    return Err(invalid("names no \"default\" template"));
                }
                Self::compile(config_path.clone(), &sources, tokens)
            }
            Some(_) => Err(invalid("must be text or a list")),
        }
    }

    /// Compiles a template given as text; `path` is what errors name, `tokens` are variables such as
    /// `bos_token`.
    ///
    /// # Errors
    /// The template does not compile.
    pub fn from_source(
        path: &Path,
        source: &str,
        tokens: Map<String, Value>,
    ) -> Result<Self, TextError> {
        Self::compile(path.into(), &[(DEFAULT, source)], tokens)
    }

    /// Compiles a template and, if there is another one for conversations with tools, that too.
    ///
    /// # Errors
    /// One of them does not compile.
    pub(crate) fn from_sources(
        path: PathBuf,
        default: &str,
        with_tools: Option<&str>,
        tokens: Map<String, Value>,
    ) -> Result<Self, TextError> {
        let mut sources = vec![(DEFAULT, default)];
        sources.extend(with_tools.map(|source| (TOOL_USE, source)));
        Self::compile(path, &sources, tokens)
    }

    /// The file that the template came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn compile(
        path: PathBuf,
        sources: &[(&str, &str)],
        tokens: Map<String, Value>,
    ) -> Result<Self, TextError> {
        let syntax_error = |error: &Error| TextError::TemplateSyntax {
            path: path.clone(),
            line: error.line().unwrap_or(0),
            message: describe(error),
        };
        let mut environment = environment().map_err(|error| syntax_error(&error))?;
        for (name, source) in sources {
            let source = source::adapt(source).map_err(|error| TextError::TemplateSyntax {
                path: path.clone(),
                line: error.line,
                message: error.message,
            })?;
            environment
                .add_template_owned((*name).to_owned(), source)
                .map_err(|error| syntax_error(&error))?;
        }
        Ok(Self {
            environment,
            path,
            tokens,
        })
    }

    /// Renders a conversation as transformers does, but for one thing: where a template would write
    /// `None` for a message without content, as those that call tools are, that content is empty.
    ///
    /// # Errors
    /// The template raises an exception or does something that fails on these messages.
    pub fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, TextError> {
        let mut messages: Vec<Value> = messages.iter().map(Message::for_template).collect();
        let text = self.render_values(messages.clone(), options)?;
        let mut is_changed = false;
        for content in messages.iter_mut().filter_map(|m| m.get_mut("content")) {
            if content.is_null() && text.contains(NONE) {
                *content = "".into();
                is_changed = true;
            }
        }
        if is_changed {
            // Many templates ask whether there is content: what they write is another text then.
            let filled = self.render_values(messages, options);
            if let Some(filled) = filled.ok().filter(|filled| lacks_only_nones(filled, &text)) {
                return Ok(filled);
            }
        }
        Ok(text)
    }

    fn render_values(
        &self,
        messages: Vec<Value>,
        options: &RenderOptions,
    ) -> Result<String, TextError> {
        let mut context = self.tokens.clone();
        context.insert("messages".into(), Value::Array(messages));
        let tools = options.tools.clone().map_or(Value::Null, Value::Array);
        context.insert("tools".into(), tools);
        context.insert("documents".into(), Value::Null);
        context.insert(
            "add_generation_prompt".into(),
            options.add_generation_prompt.into(),
        );
        for (name, value) in &options.variables {
            context.insert(name.clone(), value.clone());
        }
        let with_tools = options.tools.is_some()
            && self
                .environment
                .templates()
                .any(|(name, _)| name == TOOL_USE);
        let name = if with_tools { TOOL_USE } else { DEFAULT };
        self.environment
            .get_template(name)
            .and_then(|template| template.render(minijinja::value::Serde(&context)))
            .map_err(|error| TextError::TemplateRender {
                path: self.path.clone(),
                line: error.line().unwrap_or(0),
                message: describe(&error),
            })
    }
}

/// Variables such as `bos_token` from `tokenizer_config.json`.
fn special_tokens(config: &Map<String, Value>) -> Map<String, Value> {
    let tokens = config.iter().filter(|(name, _)| name.ends_with("_token"));
    tokens
        .filter_map(|(name, value)| Some((name.clone(), token_text(value)?.into())))
        .collect()
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, state, value| match json::python_float(value) {
        Some(text) => out.write_str(&text).map_err(Error::from),
        None => minijinja::escape_formatter(out, state, value),
    });
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("indent", methods::indent);
    environment.add_filter("e", methods::escape);
    environment.add_filter("escape", methods::escape);
    environment.add_filter(source::PRINTF_FILTER, methods::printf);
    environment.add_test("iterable", kinds::is_iterable);
    environment.add_test("sequence", kinds::is_sequence);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    environment.add_function("strftime_now", |format: &str| clock::strftime_now(format));
    Ok(environment)
}

/// Whether `text` is `filled` with a `None` or more here and there, whatever the white space.
fn lacks_only_nones(filled: &str, text: &str) -> bool {
    let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
    let nones = |text: &str| text.matches(NONE).count() * NONE.len();
    nones(filled) < nones(text) && letters(text) - nones(text) == letters(filled) - nones(filled)
}

/// The error and its causes in one line, without the location that the caller adds.
fn describe(error: &Error) -> String {
    let mut text = match (error.kind(), error.detail()) {
        (ErrorKind::InvalidOperation | ErrorKind::SyntaxError, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
