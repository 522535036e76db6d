//! `moeflux eval importance`: how much the columns of a model's matrices weigh on a text.

use std::path::PathBuf;

use clap::Args;
use moeflux::ImportanceRecorder;

use super::eval_text::TextArgs;
use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::model;
use crate::output;

/// Flags of `eval importance`.
#[derive(Debug, Args)]
pub struct ImportanceArgs {
    #[command(flatten)]
    text: TextArgs,
    /// The file to write, for pack --importance
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the command.
pub fn run(args: &ImportanceArgs) -> Result<(), Failure> {
    let dir = model::find(&args.model.model)?;
    let windows = args.text.windows(&dir)?;
    let options = args.model.options()?;
    // Said before the model is loaded, which may take long.
    let folder = args
        .output
        .parent()
        .filter(|path| !path.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(Failure::Input {
            path: folder.to_owned(),
            problem: "no such directory; make it, or name another with --output".to_owned(),
        });
    }
    let mut recorder = output::with_spinner("loading the model", || {
        ImportanceRecorder::open(&dir, &options)
    })?;
    let guard = interrupt::listen();
    let tokens = windows.iter().map(Vec::len).sum::<usize>();
    let bar = output::count_bar(tokens as u64, "tokens");
    for window in &windows {
        let mut session = recorder.session();
        for part in window.chunks(recorder.chunk_tokens()) {
            recorder.run(&mut session, part)?;
            bar.inc(part.len() as u64);
            if guard.stopped() {
                return Err(Failure::Interrupted);
            }
        }
    }
    bar.finish_and_clear();
    let (unseen, experts) = recorder.write(&args.output)?;
    output::note(&format!(
        "{}: importance on {tokens} tokens; {unseen} of {experts} routed experts were not chosen and \
         get their layer's mean",
        args.output.display()
    ));
    Ok(())
}
