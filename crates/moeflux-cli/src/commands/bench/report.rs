//! What is printed: a table for people, CSV and JSON for programs.

use moeflux::{Engine, ModelInfo};
use serde_json::{Map, Value, json};

use super::Loaded;
use super::measure::Measured;
use super::plan::Kind;
use super::tier::{Tier, backend};
use crate::floor::Machine;
use crate::measure::DiskRate;
use crate::size;

/// One line of the result: a test with a number of threads.
pub struct Row {
    fields: Vec<(&'static str, Value)>,
    tier: Option<String>,
}

impl Row {
    /// The fields of a measurement; `disk` is there if the test read anything.
    pub fn new(
        model: &str,
        loaded: &Loaded,
        mut measured: Measured,
        disk: Option<&DiskRate>,
        predicted: Option<f64>,
    ) -> Row {
        let test = measured.test;
        let repetitions = measured.rates.len();
        let tokens = test.tokens as f64;
        let read = measured.bytes_read as f64 / repetitions.max(1) as f64;
        if let Some(disk) = disk {
            measured.floor.disk_seconds = read / disk.bytes_per_second.max(1.0);
        }
        let share = |seconds: f64| {
            let rate = measured.bytes_read as f64 / seconds.max(1e-9);
            disk.map(|disk| rate / disk.bytes_per_second.max(1.0))
        };
        let disk_share = share(measured.seconds);
        let disk_busy_share = share(measured.busy_seconds);
        let floor = measured.floor;
        let rates = Rates::of(&measured.rates);
        let (floor_seconds, limit) = floor.limit();
        let floor_rate = |seconds: f64| (seconds > 0.0).then(|| tokens / seconds);
        let length = |kind| if test.kind == kind { test.tokens } else { 0 };
        let (info, stats) = (loaded.engine.info(), loaded.engine.stats());
        let mut fields = vec![
            ("model", json!(model)),
            ("model_type", json!(info.model_type)),
            ("model_bytes", json!(info.dense_bytes + info.expert_bytes)),
            ("parameters", json!(info.parameters)),
            ("codec", json!(expert_codec(info))),
            ("backend", json!(backend(stats.tier.as_ref()))),
            ("isa", json!(stats.isa.to_string())),
            ("activations", json!(stats.activations.to_string())),
            ("kv", json!(stats.kv.to_string())),
            ("threads", json!(stats.threads)),
            ("test", json!(test.name())),
            ("prompt_tokens", json!(length(Kind::Prefill))),
            ("decode_tokens", json!(length(Kind::Decode))),
            ("depth", json!(test.depth)),
            ("repetitions", json!(repetitions)),
            ("tok_s", json!(rates.mean)),
            ("tok_s_stddev", json!(rates.deviation)),
            ("tok_s_min", json!(rates.min)),
            ("tok_s_median", json!(rates.median)),
            ("tok_s_max", json!(rates.max)),
            ("floor_tok_s", json!(tokens / floor_seconds)),
            ("floor_share", json!(rates.mean * floor_seconds / tokens)),
            ("limit", json!(limit)),
            (
                "memory_floor_tok_s",
                json!(floor_rate(floor.memory_seconds)),
            ),
            (
                "compute_floor_tok_s",
                json!(floor_rate(floor.compute_seconds)),
            ),
            ("disk_floor_tok_s", json!(floor_rate(floor.disk_seconds))),
            (
                "transfer_floor_tok_s",
                json!(floor_rate(floor.transfer_seconds)),
            ),
            ("bytes_per_token", json!(floor.bytes / tokens)),
            ("gb_s", json!(floor.bytes / tokens * rates.mean * 1e-9)),
            ("hit_rate", json!(measured.hit_rate)),
            ("read_bytes_per_token", json!(read / tokens)),
            ("load_s", json!(loaded.load_seconds)),
            ("first_token_s", json!(loaded.first_token_seconds)),
            ("cache", json!(measured.cache.name())),
            ("disk_share", json!(disk_share)),
            ("disk_busy_share", json!(disk_busy_share)),
            ("predicted_tok_s", json!(predicted)),
            (
                "predicted_share",
                json!(predicted.map(|predicted| rates.mean / predicted)),
            ),
        ];
        let tier = measured
            .tier
            .map(|stats| Tier::of(&stats, info, repetitions * test.tokens));
        fields.extend(Tier::fields(tier.as_ref()));
        Row {
            fields,
            tier: tier.as_ref().map(Tier::text),
        }
    }

    /// What a device's memory for experts did, for people.
    pub fn tier(&self) -> Option<&str> {
        self.tier.as_deref()
    }

    /// The row as an object.
    pub fn json(&self) -> Value {
        let fields = self.fields.iter();
        let fields = fields.map(|(name, value)| ((*name).to_owned(), value.clone()));
        Value::Object(fields.collect::<Map<_, _>>())
    }

    /// The names of the fields, for the first line of a CSV file.
    pub fn csv_header(&self) -> String {
        let names: Vec<&str> = self.fields.iter().map(|(name, _)| *name).collect();
        names.join(",")
    }

    /// The row as a line of a CSV file; what there is not is empty.
    pub fn csv(&self) -> String {
        let fields: Vec<String> = self.fields.iter().map(|(_, value)| csv(value)).collect();
        fields.join(",")
    }

    /// The row as a line of the table.
    pub fn text(&self) -> String {
        let of = |name: &str| self.fields.iter().find(|(known, _)| *known == name);
        let get = |name: &str| of(name).map_or(&Value::Null, |(_, value)| value);
        let number = |name: &str| get(name).as_f64().unwrap_or(0.0);
        let figure = |name: &str| match get(name).as_f64() {
            Some(number) => format!("{number:.2}"),
            None => String::new(),
        };
        let share = |name: &str| match get(name).as_f64() {
            Some(share) => format!("{:.1} %", share * 100.0),
            None => String::new(),
        };
        let cells = [
            get("threads").to_string(),
            get("test").as_str().unwrap_or_default().to_owned(),
            get("cache").as_str().unwrap_or_default().to_owned(),
            format!("{:.2} ± {:.2}", number("tok_s"), number("tok_s_stddev")),
            format!("{:.2}", number("tok_s_min")),
            format!("{:.2}", number("tok_s_median")),
            format!("{:.2}", number("tok_s_max")),
            figure("floor_tok_s"),
            share("floor_share"),
            get("limit").as_str().unwrap_or_default().to_owned(),
            figure("gb_s"),
            share("hit_rate"),
            format!("{:.3}", number("read_bytes_per_token") * 1e-6),
            share("disk_share"),
            figure("predicted_tok_s"),
        ];
        line(&cells)
    }
}

/// Tokens a second over the repetitions.
struct Rates {
    mean: f64,
    /// Of a sample; 0 for a single one.
    deviation: f64,
    min: f64,
    median: f64,
    max: f64,
}

impl Rates {
    fn of(rates: &[f64]) -> Rates {
        let mut sorted = rates.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
        let mean = sorted.iter().sum::<f64>() / count.max(1) as f64;
        let squares: f64 = sorted.iter().map(|rate| (rate - mean).powi(2)).sum();
        Rates {
            mean,
            deviation: (squares / count.saturating_sub(1).max(1) as f64).sqrt(),
            min: at(0),
            median: (at(count.saturating_sub(1) / 2) + at(count / 2)) / 2.0,
            max: at(count.saturating_sub(1)),
        }
    }
}

fn csv(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.contains([',', '"', '\n', '\r']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Titles and widths of the table's columns; the second, third and tenth are words.
const COLUMNS: [(&str, usize); 15] = [
    ("threads", 7),
    ("test", 16),
    ("cache", 8),
    ("tok/s", 18),
    ("min", 8),
    ("median", 8),
    ("max", 8),
    ("floor", 8),
    ("share", 8),
    ("limit", 7),
    ("GB/s", 6),
    ("hits", 7),
    ("MB read/token", 13),
    ("disk", 7),
    ("predicted", 9),
];
const WORDS: [usize; 3] = [1, 2, 9];

/// The table's first two lines.
pub fn table_header() -> String {
    let titles = COLUMNS.map(|(title, _)| title.to_owned());
    let rule = COLUMNS
        .iter()
        .enumerate()
        .map(|(index, (_, width))| match WORDS.contains(&index) {
            true => format!(":{:-<width$}-", ""),
            false => format!("-{:->width$}:", ""),
        });
    let rule: Vec<String> = rule.collect();
    format!("{}\n|{}|", line(&titles), rule.join("|"))
}

fn line(cells: &[String; COLUMNS.len()]) -> String {
    let padded = cells.iter().zip(COLUMNS).enumerate();
    let padded = padded.map(|(index, (cell, (_, width)))| match WORDS.contains(&index) {
        true => format!(" {cell:<width$} "),
        false => format!(" {cell:>width$} "),
    });
    format!("|{}|", padded.collect::<Vec<_>>().join("|"))
}

/// The lines above the table: the model, the machine and the load.
pub fn heading(model: &str, loaded: &Loaded, machine: &Machine) -> String {
    let (info, stats) = (loaded.engine.info(), loaded.engine.stats());
    let kernels: Vec<String> = kernels(machine)
        .map(|(name, rate)| format!("{name} {:.1}", rate * 1e-9))
        .collect();
    let way = machine.transfer;
    let way = way.map(|rate| format!("device: {:.1} GB/s from the host, ", rate * 1e-9));
    format!(
        "{model} ({}): {}, {} parameters, experts {}\n\
         {}, {} threads, {} activations, {} keys and values; {} of {} experts fit in memory; \
         loaded in {:.2} s, first token after {:.2} s\n\
         {}memory {:.1} GB/s at best, {:.1} in the median; G multiply-adds/s: {}",
        info.model_type,
        size::show(info.dense_bytes + info.expert_bytes),
        count(info.parameters),
        expert_codec(info),
        stats.isa,
        stats.threads,
        stats.activations,
        stats.kv,
        stats.experts.slots,
        info.expert_records,
        loaded.load_seconds,
        loaded.first_token_seconds,
        way.unwrap_or_default(),
        machine.memory.best * 1e-9,
        machine.memory.median * 1e-9,
        kernels.join(", "),
    )
}

/// A count for people: `35.11 B`.
fn count(number: u64) -> String {
    match number as f64 {
        n if n >= 1e9 => format!("{:.2} B", n * 1e-9),
        n => format!("{:.2} M", n * 1e-6),
    }
}

/// An engine and its machine, for programs.
pub fn machine_json(loaded: &Loaded, machine: &Machine) -> Value {
    let stats = loaded.engine.stats();
    let kernels = kernels(machine).map(|(name, rate)| (name, json!(rate)));
    json!({
        "backend": backend(stats.tier.as_ref()),
        "isa": stats.isa.to_string(),
        "threads": stats.threads,
        "activations": stats.activations.to_string(),
        "kv": stats.kv.to_string(),
        "memory_bytes_per_second": machine.memory.best,
        "memory_median_bytes_per_second": machine.memory.median,
        "transfer_bytes_per_second": machine.transfer,
        "multiply_adds_per_second": Value::Object(kernels.collect()),
        "expert_records": loaded.engine.info().expert_records,
        "expert_slots": stats.experts.slots,
        "all_resident": loaded.all_resident,
        "chunk_tokens": loaded.engine.chunk_tokens(),
        "load_s": loaded.load_seconds,
        "first_token_s": loaded.first_token_seconds,
    })
}

/// The machine's rates in multiply-adds by name: registers alone, then each kind of product; of a
/// device its product with many vectors.
fn kernels(machine: &Machine) -> impl Iterator<Item = (String, f64)> {
    let first = match machine.transfer {
        None => "f32-registers",
        Some(_) => "products",
    };
    let first = (first.to_owned(), machine.float_multiply_adds_per_second);
    let products = machine.kernels.iter().map(|kernel| {
        let exact = if kernel.kind.exact { "-exact" } else { "" };
        let name = format!("{}{exact}", kernel.kind.codec);
        (name, kernel.multiply_adds_per_second)
    });
    std::iter::once(first).chain(products)
}

/// The codecs of the routed experts.
pub fn expert_codec(info: &ModelInfo) -> String {
    let class = info
        .codecs
        .iter()
        .find(|(class, _)| class == "routed experts");
    class.map_or(String::new(), |(_, codecs)| codecs.clone())
}

/// What the whole result says of the model.
pub fn model_json(engine: &Engine, model: &str) -> Vec<(&'static str, Value)> {
    let info = engine.info();
    vec![
        ("model", json!(model)),
        ("model_type", json!(info.model_type)),
        ("model_bytes", json!(info.dense_bytes + info.expert_bytes)),
        ("parameters", json!(info.parameters)),
        ("codec", json!(expert_codec(info))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_summed_up() {
        let rates = Rates::of(&[4.0, 1.0, 3.0]);
        assert_eq!((rates.min, rates.median, rates.max), (1.0, 3.0, 4.0));
        assert!((rates.mean - 8.0 / 3.0).abs() < 1e-12);
        assert!((rates.deviation - (7.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Rates::of(&[1.0, 2.0]).median, 1.5);
        let one = Rates::of(&[5.0]);
        assert_eq!((one.deviation, one.median), (0.0, 5.0));
    }

    #[test]
    fn csv_quotes_what_would_break_it() {
        assert_eq!(csv(&json!("a,\"b\"")), "\"a,\"\"b\"\"\"");
        assert_eq!(csv(&json!("plain")), "plain");
        assert_eq!(csv(&json!(1.5)), "1.5");
        assert_eq!(csv(&Value::Null), "");
    }

    #[test]
    fn every_line_of_the_table_has_the_same_width() {
        let header = table_header();
        let widths: Vec<usize> = header.lines().map(|l| l.chars().count()).collect();
        let cells = COLUMNS.map(|_| "x".to_owned());
        assert_eq!(widths, [line(&cells).chars().count(); 2]);
    }
}
