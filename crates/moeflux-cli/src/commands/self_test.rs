//! `devices --self-test`: whether a device computes right, by the harness's cases.

use std::collections::BTreeMap;
use std::sync::Arc;

use moeflux::Activations;
use moeflux_gpu::exactness::usual_experts_agree;
use moeflux_gpu::{DeviceChoice, Gpu, GpuBackend, GpuError, GpuOptions};
use moeflux_harness::backends::reference;
use moeflux_harness::cases::one_op;
use moeflux_harness::compare::{close, identical};
use moeflux_harness::{Case, HarnessError, run::run as run_case};
use serde_json::json;

use crate::device::Device;
use crate::failure::Failure;
use crate::output;

/// Random cases of each operation: with these seeds all codecs have their turn.
const SEEDS: u64 = 6;
/// Relative L2 error of a row of a result.
const TOLERANCE: f64 = 1e-4;
/// The same in a prompt, whose kernels may round inputs to binary16.
const PROMPT_TOLERANCE: f64 = 5e-3;

/// What the cases of an operation came to.
#[derive(Default)]
struct Found {
    cases: usize,
    worst: f64,
    /// Cases of forms that have no kernel.
    refused: usize,
    problems: Vec<String>,
}

/// Runs the cases on `device` and prints what they came to.
pub fn run(device: Device, is_json: bool) -> Result<(), Failure> {
    let choice = match device {
        Device::Gpu(Some(number)) => DeviceChoice::Number(number),
        Device::Gpu(None) => DeviceChoice::Any,
        Device::Auto => DeviceChoice::Auto,
        Device::Cpu => {
            let words = "--self-test is for graphics processors; name one, as gpu:0";
            return Err(Failure::Usage(words.to_owned()));
        }
    };
    let gpu = Gpu::open(choice).map_err(moeflux::Error::from)?;
    let bits = usual_experts_agree(&gpu).map_err(moeflux::Error::from)?;
    let found = operations(&gpu)?;
    let problems: Vec<&String> = found.values().flat_map(|f| &f.problems).collect();
    let cases: usize = found.values().map(|f| f.cases).sum();
    let name = &gpu.line().name;
    if is_json {
        output::json(&json!({
            "name": name,
            "cases": cases,
            "refused": found.values().map(|f| f.refused).sum::<usize>(),
            "largest_error": found.values().map(|f| f.worst).fold(0.0, f64::max),
            "problems": problems,
            "processors_bits": bits,
        }))?;
    } else {
        report(name, &found, bits)?;
    }
    let Some(problem) = problems.first() else {
        return Ok(());
    };
    let wrong = GpuError::Wrong {
        adapter: name.clone(),
        problem: format!("{} of {cases} cases, as {problem}", problems.len()),
    };
    Err(moeflux::Error::from(wrong).into())
}

fn report(name: &str, found: &BTreeMap<String, Found>, bits: bool) -> Result<(), Failure> {
    output::line(name)?;
    for (op, found) in found {
        let Found {
            cases,
            worst,
            refused,
            problems,
        } = found;
        let verdict = match problems.first() {
            None if refused == cases => "no kernel, refused".to_owned(),
            None if *refused > 0 => format!("right; {refused} have no kernel"),
            None => "right".to_owned(),
            Some(problem) => format!("WRONG: {problem}"),
        };
        output::line(&format!(
            "  {op:<18} {cases:>3} cases, error {worst:.1e}: {verdict}"
        ))?;
    }
    let bits = match bits {
        true => "right",
        false => "other bits",
    };
    output::line(&format!(
        "  kernels with the processor's bits for experts: {bits} (of use with --cpu-experts)"
    ))
}

fn operations(gpu: &Arc<Gpu>) -> Result<BTreeMap<String, Found>, Failure> {
    let mut all = Vec::new();
    for seed in 0..SEEDS {
        all.extend(one_op::cases(seed).map_err(own)?);
    }
    let bar = output::count_bar(all.len() as u64, "cases");
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for case in &all {
        let op = case.graph.ops.last().map_or("none", |op| op.name());
        let found = found.entry(op.to_owned()).or_default();
        found.cases += 1;
        match check(gpu, case) {
            Ok(error) => found.worst = found.worst.max(error),
            Err(HarnessError::Engine(error)) if is_refusal(&error) => found.refused += 1,
            // A device that is gone has no more to say.
            Err(HarnessError::Engine(error)) if gpu.check().is_err() => return Err(error.into()),
            Err(problem) => found.problems.push(format!("{}: {problem}", case.name)),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(found)
}

/// The error of a case, if it is small, also in a prompt, and the same bits come token by token.
fn check(gpu: &Arc<Gpu>, case: &Case) -> Result<f64, HarnessError> {
    let backend = || Box::new(GpuBackend::new(Arc::clone(gpu), GpuOptions::default()));
    let expected = run_case(case, reference(Activations::F32))?;
    let found = run_case(case, backend())?;
    // Some allow more: an entry may be rounded to binary16 the other way.
    let error = close(&found, &expected, TOLERANCE.max(case.tolerance.f32))?;
    let cut = case.in_steps(&[1])?;
    identical(&run_case(&cut, backend())?, &found)?;
    let prompt = Case {
        is_prompt: true,
        ..case.clone()
    };
    let found = run_case(&prompt, backend())?;
    close(&found, &expected, PROMPT_TOLERANCE)?;
    Ok(error)
}

/// Whether there is no kernel for something, which `--device gpu` says too.
fn is_refusal(error: &moeflux::Error) -> bool {
    let moeflux::Error::Device(error) = error else {
        return false;
    };
    matches!(error.downcast_ref(), Some(GpuError::Unsupported { .. }))
}

/// A case that cannot be made is a defect, not the device's.
fn own(error: HarnessError) -> Failure {
    moeflux::Error::Internal(error.to_string()).into()
}
