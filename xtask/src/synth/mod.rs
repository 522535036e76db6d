//! `cargo xtask synth SHAPE -o DIR`: packed models of real shapes with random weights, for
//! measuring what does not depend on what a model has learnt. They have no tokenizer: `moeflux
//! bench` and `moeflux eval logits` take them, by token ids.
//!
//! The same command makes the same bytes on any machine. A matrix of a routed expert is the same
//! whatever the number of layers is, unless its size has to follow from it.

mod plan;
mod random;
mod shape;
mod weights;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use moeflux::PackOptions;
use moeflux::config::Config;
use moeflux::models;

use plan::Planner;
use shape::Shape;
use weights::Law;
use write::Directory;

/// Makes a packed model of a real shape with random weights
#[derive(Debug, Parser)]
#[command(name = "cargo xtask synth")]
struct Args {
    /// qwen3.6-35b-a3b, qwen3.5-122b-a10b, qwen3.5-397b-a17b or tiny; `-4l` at the end cuts it to
    /// 4 layers
    shape: String,
    /// The directory to make
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Bits of routed experts and of dense weights; embeddings, head and routers have 8
    #[arg(long, default_value = "4", value_parser = ["4", "8"])]
    bits: String,
    /// Number of layers, in place of the shape's; every fourth has full attention
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    layers: Option<u16>,
    /// Popularity of the experts: the one of rank r is chosen about as often as r to the power -S
    /// says; 0 for no skew but chance's
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    zipf: f32,
    /// Chooses the weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Runs the command with the arguments after `synth`.
pub fn run(arguments: &[String]) -> ExitCode {
    crate::command::run("synth", arguments, |args: &Args| make(args))
}

fn make(args: &Args) -> Result<()> {
    if !(args.zipf.is_finite() && (0.0..=4.0).contains(&args.zipf)) {
        bail!("--zipf {} is not between 0 and 4", args.zipf);
    }
    let shape = args.shape()?;
    let config = serde_json::to_string_pretty(&shape.config())?;
    let path = args.output.join("config.json");
    let blueprint = models::blueprint(&Config::parse(&path, &config)?)?;
    let planner = Planner {
        blueprint: &blueprint,
        pack: PackOptions {
            bits: args.bits.parse()?,
            // Only affine groups are made.
            group: Some(64),
            ..PackOptions::default()
        },
        law: Law {
            seed: args.seed,
            zipf: args.zipf,
            layers: shape.layers,
        },
    };
    let names = planner.names();
    // A layer is planned when it is written; that one stands for all of them.
    let layers = names.len() as u64 - 1;
    let layer_bytes = planner.file(names.len() - 1)?.bytes();
    let bytes = planner.file(0)?.bytes() + layers * layer_bytes;
    let directory = Directory::create(&args.output)?;
    check_room(&args.output, bytes)?;
    let bar = progress_bar(bytes)?;
    let start = Instant::now();
    let mut files = BTreeMap::new();
    files.insert(
        "config.json".to_owned(),
        directory.write_text("config.json", &config)?,
    );
    for (index, name) in names.into_iter().enumerate() {
        bar.set_message(name.clone());
        let entry = directory.write_tensors(&planner.file(index)?, &mut |n| bar.inc(n))?;
        files.insert(name, entry);
    }
    directory.finish(&planner, args.recipe(&shape), files)?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{}: {:.1} billion parameters, {:.2} GB in {seconds:.1} s ({:.0} MB/s)",
        args.output.display(),
        blueprint.parameters() as f64 / 1e9,
        bytes as f64 / 1e9,
        bytes as f64 / 1e6 / seconds
    );
    Ok(())
}

impl Args {
    fn shape(&self) -> Result<Shape> {
        let mut shape = Shape::find(&self.shape).ok_or_else(|| {
            let known = Shape::names().join(", ");
            anyhow!("no shape is called {}; there are {known}", self.shape)
        })?;
        shape.layers = self.layers.map_or(shape.layers, usize::from);
        Ok(shape)
    }

    /// What makes the same model again, for the manifest.
    fn recipe(&self, shape: &Shape) -> String {
        let (name, layers) = (shape.name, shape.layers);
        let Args {
            bits, zipf, seed, ..
        } = self;
        format!("synth {name} --layers {layers} --bits {bits} --zipf {zipf} --seed {seed}")
    }
}

/// Refuses to begin what the disk cannot hold.
#[cfg(unix)]
fn check_room(output: &Path, bytes: u64) -> Result<()> {
    let parent = output
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let found = rustix::fs::statvfs(parent)
        .with_context(|| format!("cannot tell the free space of {}", parent.display()))?;
    let free = found.f_bavail * found.f_frsize;
    // Headers and the file system's own take a little more.
    let needed = bytes + bytes / 100;
    if free < needed {
        bail!(
            "{} has {:.2} GB free, the model takes {:.2} GB; choose another disk or fewer --layers",
            parent.display(),
            free as f64 / 1e9,
            needed as f64 / 1e9
        );
    }
    Ok(())
}

/// Other systems say so when the disk is full.
#[cfg(not(unix))]
fn check_room(_output: &Path, _bytes: u64) -> Result<()> {
    Ok(())
}

fn progress_bar(bytes: u64) -> Result<ProgressBar> {
    let template = "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} {msg}";
    let style = ProgressStyle::with_template(template).context("progress bar")?;
    Ok(ProgressBar::new(bytes).with_style(style))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Billions of parameters of a shape.
    fn billions(name: &str) -> f64 {
        let shape = Shape::find(name).expect("a shape");
        let config = shape.config().to_string();
        let config = Config::parse(Path::new("config.json"), &config).expect("a configuration");
        let blueprint = models::blueprint(&config).expect("a blueprint");
        blueprint.parameters() as f64 / 1e9
    }

    #[test]
    fn shapes_have_the_parameters_of_their_names() {
        for (name, expected) in [
            ("qwen3.6-35b-a3b", 35.0),
            ("qwen3.5-122b-a10b", 122.0),
            ("qwen3.5-397b-a17b", 397.0),
        ] {
            let found = billions(name);
            assert!((found / expected - 1.0).abs() < 0.02, "{name}: {found}");
        }
    }
}
