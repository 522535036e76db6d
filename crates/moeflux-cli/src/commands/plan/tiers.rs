//! `plan --device gpu`: how many experts are in the device's memory, how many in the host's, and
//! what that makes of decoding.

use std::path::Path;

use moeflux::{Activations, Engine, EngineOptions, Error, MakeBackend, MemoryPlan, ModelInfo};
use serde_json::{Value, json};

use super::report::table;
use super::{Budget, PlanArgs};
use crate::device::{self, Device, Limits};
use crate::failure::Failure;
use crate::measure::DiskRate;
use crate::predict::{self, DeviceModel, HitModel};
use crate::{measure, model, output, size};

/// Bounds of memory and what each gives.
pub type Plans = Vec<(Option<u64>, Result<MemoryPlan, Error>)>;

/// Shares of a token's experts by where they are, once all is warm.
struct Shares {
    on_device: f64,
    in_memory: f64,
    on_disk: f64,
}

/// All that is known.
struct Tiers {
    model: String,
    device: String,
    info: ModelInfo,
    hits: HitModel,
    context: usize,
    disk: DiskRate,
    decode: DeviceModel,
    /// Experts that the device has room for, and bytes of that room.
    slots: u64,
    slot_bytes: u64,
    budgets: Vec<(Option<u64>, Result<Budget, Error>)>,
}

/// An open device.
pub struct OnDevice {
    name: String,
    backend: Option<MakeBackend>,
}

/// Opens the device: its driver takes memory, which plans made from then on count.
pub fn open(args: &PlanArgs, device: Device) -> Result<OnDevice, Failure> {
    let mut options = EngineOptions::default();
    let limits = Limits {
        memory: args.gpu_memory,
        ..Limits::default()
    };
    let name = device::on_gpu(&mut options, device, limits)?;
    Ok(OnDevice {
        name,
        backend: options.backend,
    })
}

/// Measures the model on the device, within the smallest bound of memory, and prints what follows.
pub fn run(
    args: &PlanArgs,
    device: OnDevice,
    path: &Path,
    (hits, context, smallest): (HitModel, usize, u64),
    plans: Plans,
) -> Result<(), Failure> {
    let options = EngineOptions {
        backend: device.backend,
        activations: Activations::F32,
        ..args.options(Some(smallest))
    };
    let engine = output::with_spinner("loading the model", || Engine::open(path, &options))?;
    let decode = output::with_spinner("measuring", || predict::measure_device(&engine))?;
    let disk = measure::disk(path, args.reader)?;
    let tier = engine.stats().tier.unwrap_or_default();
    let info = engine.info().clone();
    let budgets = plans.into_iter().map(|(given, plan)| {
        let budget = plan.map(|plan| Budget::new(plan, &info, context));
        (given, budget)
    });
    let tiers = Tiers {
        model: model::name(path),
        device: device.name,
        hits,
        context,
        disk,
        decode,
        slots: tier.slots,
        slot_bytes: tier.slot_bytes,
        budgets: budgets.collect(),
        info: info.clone(),
    };
    match args.json {
        true => output::json(&tiers.json()),
        false => output::line(&tiers.text()),
    }
}

impl Tiers {
    /// The device's experts are taken to be in memory too, where there is room for them.
    fn shares(&self, memory_slots: u64) -> Shares {
        let rate = |slots: u64| self.hits.rate(slots, self.info.expert_records as u64);
        let on_device = rate(self.slots);
        let in_memory = (rate(memory_slots.max(self.slots)) - on_device).max(0.0);
        Shares {
            on_device,
            in_memory,
            on_disk: 1.0 - on_device - in_memory,
        }
    }

    fn rate(&self, shares: &Shares) -> f64 {
        1.0 / self.decode.seconds(shares.on_device, shares.in_memory)
    }

    fn text(&self) -> String {
        let (info, decode) = (&self.info, &self.decode);
        let part = self.slots as f64 / info.expert_records.max(1) as f64;
        let mut text = vec![
            format!(
                "{} ({}) on {}: room for {} of {} experts there ({}, {:.1} %); a token uses {} \
                 of them in {} layers: {}",
                self.model,
                info.model_type,
                self.device,
                self.slots,
                info.expert_records,
                size::show(self.slot_bytes),
                part * 100.0,
                info.top_k,
                info.moe_layers,
                size::show(info.token_expert_bytes),
            ),
            format!(
                "measured: a token {:.2} ms with all its experts on the device, {:.3} ms more for \
                 each that is brought there, {:.3} ms more for each that is read; disk {:.2} GB/s by {}",
                decode.resident_seconds * 1e3,
                decode.bring_seconds * 1e3,
                decode.read_seconds * 1e3,
                self.disk.bytes_per_second * 1e-9,
                self.disk.reader,
            ),
            String::new(),
        ];
        let found = format!("on the device ({})", self.hits.name());
        let experts = format!("experts, {} tokens", self.context);
        let titles = [
            "memory",
            &experts,
            &found,
            "in memory",
            "on disk",
            "warm tok/s",
            "all on the device",
        ];
        let workable = self.budgets.iter().filter_map(|(_, b)| b.as_ref().ok());
        let rows = workable.map(|budget| {
            let shares = self.shares(budget.slots);
            let percent = |share: f64| format!("{:.1} %", share * 100.0);
            [
                size::show(budget.memory.limit_bytes),
                match budget.slots {
                    0 => "context does not fit".to_owned(),
                    slots => slots.to_string(),
                },
                percent(shares.on_device),
                percent(shares.in_memory),
                percent(shares.on_disk),
                format!("{:.2}", self.rate(&shares)),
                format!("{:.2}", 1.0 / decode.resident_seconds),
            ]
        });
        text.extend(table(titles, rows.collect()));
        for (given, problem) in &self.budgets {
            if let Err(problem) = problem {
                let given = given.map_or("what is available".to_owned(), size::show);
                text.push(format!("\n{given}: {problem}"));
            }
        }
        text.join("\n")
    }

    fn json(&self) -> Value {
        let (info, decode) = (&self.info, &self.decode);
        let budgets = self.budgets.iter().map(|(given, budget)| match budget {
            Err(problem) => json!({"memory_bytes": given, "error": problem.to_string()}),
            Ok(budget) => {
                let shares = self.shares(budget.slots);
                json!({
                    "memory_bytes": budget.memory.limit_bytes,
                    "expert_slots": budget.slots,
                    "context_fits": budget.slots > 0,
                    "on_device": shares.on_device,
                    "in_memory": shares.in_memory,
                    "on_disk": shares.on_disk,
                    "warm_tok_s": self.rate(&shares),
                    "best_tok_s": 1.0 / decode.resident_seconds,
                })
            }
        });
        json!({
            "model": self.model,
            "model_type": info.model_type,
            "device": self.device,
            "device_slots": self.slots,
            "device_slot_bytes": self.slot_bytes,
            "context_tokens": self.context,
            "expert_records": info.expert_records,
            "token_expert_bytes": info.token_expert_bytes,
            "hit_rate_from": self.hits.name(),
            "measured": {
                "disk_bytes_per_second": self.disk.bytes_per_second,
                "reader": self.disk.reader,
                "resident_token_s": decode.resident_seconds,
                "brought_expert_s": decode.bring_seconds,
                "read_expert_s": decode.read_seconds,
            },
            "budgets": budgets.collect::<Vec<_>>(),
        })
    }
}
