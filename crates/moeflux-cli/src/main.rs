//! The `moeflux` command: a thin skin over the library. It knows terminals, flags and exit codes,
//! and nothing of tensors.

mod args;
mod commands;
mod conversation;
mod device;
mod failure;
mod floor;
mod interrupt;
mod key;
mod measure;
mod model;
mod output;
mod predict;
mod remote;
mod session_file;
mod size;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use failure::Failure;

/// Runs Mixture-of-Experts language models far larger than memory.
#[derive(Debug, Parser)]
#[command(name = "moeflux", version, after_help = failure::EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer one prompt; the answer alone goes to standard output
    Run(commands::run::RunArgs),
    /// Talk with a model; Ctrl-C stops an answer, Ctrl-D leaves
    Chat(commands::chat::ChatArgs),
    /// Serve a model over HTTP to clients of OpenAI and Anthropic
    Serve(commands::serve::ServeArgs),
    /// Turn a checkpoint into a packed model directory with fewer bits
    Pack(commands::pack::PackArgs),
    /// Download a model from a Hugging Face hub: resumable, checked
    Pull(commands::pull::PullArgs),
    /// Describe a model from its headers: sizes, bytes a token needs, codecs
    Inspect(commands::inspect::InspectArgs),
    /// Measure prefill and decode, with the hardware's floor beside
    Bench(commands::bench::BenchArgs),
    /// Say what fits in memory, what speed to expect and what would help
    Plan(commands::plan::PlanArgs),
    /// Evaluate a model: its answers to prompts with known ones, its logits, how well it knows a
    /// text, how far it is from another
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Study recorded uses of experts (--trace)
    #[command(subcommand)]
    Trace(commands::trace::TraceCommand),
    /// List where operations can run, for --device
    #[cfg(feature = "gpu")]
    Devices(commands::devices::DevicesArgs),
    /// Write a script that completes commands and flags in a shell
    Completions(commands::completions::CompletionsArgs),
    /// Write manual pages
    Man(commands::man::ManArgs),
}

#[derive(Debug, Subcommand)]
enum EvalCommand {
    /// Write the logits of a list of tokens as a safetensors file
    Logits(commands::eval_logits::LogitsArgs),
    /// Answer prompts greedily and count the right answers
    Answers(commands::eval_answers::AnswersArgs),
    /// The perplexity of a text: how surprising it is to the model
    Ppl(commands::eval_ppl::PplArgs),
    /// The divergence of a model's beliefs from another's on a text: what quantization costs
    Kl(commands::eval_kl::KlArgs),
    /// Record on a text how much the columns of a model's matrices weigh, for pack --importance
    Importance(commands::eval_importance::ImportanceArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Run(args) => commands::run::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::Serve(args) => commands::serve::run(args),
        Command::Pack(args) => commands::pack::run(args),
        Command::Pull(args) => commands::pull::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Plan(args) => commands::plan::run(args),
        Command::Eval(EvalCommand::Logits(args)) => commands::eval_logits::run(args),
        Command::Eval(EvalCommand::Answers(args)) => commands::eval_answers::run(args),
        Command::Eval(EvalCommand::Ppl(args)) => commands::eval_ppl::run(args),
        Command::Eval(EvalCommand::Kl(args)) => commands::eval_kl::run(args),
        Command::Eval(EvalCommand::Importance(args)) => commands::eval_importance::run(args),
        Command::Trace(command) => commands::trace::run(command),
        #[cfg(feature = "gpu")]
        Command::Devices(args) => commands::devices::run(args),
        Command::Completions(args) => commands::completions::run(args, Cli::command()),
        Command::Man(args) => commands::man::run(args, Cli::command()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough, and whoever stopped us knows it.
        Err(failure @ (Failure::BrokenPipe | Failure::Interrupted)) => {
            ExitCode::from(failure.exit_code())
        }
        Err(failure) => {
            // Nothing is left to do where standard error cannot be written.
            let _ = writeln!(std::io::stderr(), "error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
