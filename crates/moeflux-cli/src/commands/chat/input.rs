//! Where the user's lines come from.

use std::io::{self, BufRead as _, IsTerminal};

use rustyline::error::ReadlineError;
use rustyline::{Behavior, Config, DefaultEditor};

use crate::failure::Failure;
use crate::output;

/// A terminal with an editor, or a pipe.
pub enum Input {
    Terminal(Box<DefaultEditor>),
    Pipe(io::StdinLock<'static>),
}

impl Input {
    /// Standard input.
    pub fn open() -> Result<Self, Failure> {
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

    /// Whether a person types.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal(_))
    }

    /// The next line, `None` at the end.
    pub fn line(&mut self) -> Result<Option<String>, Failure> {
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
