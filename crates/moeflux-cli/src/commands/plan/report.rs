//! What is printed: tables for people, an object for programs.

use moeflux::{Error, ModelInfo};
use serde_json::{Value, json};

use super::advice::advice;
use super::{Budget, Outlook, PROMPTS};
use crate::floor::Machine;
use crate::size;

/// A bound that was given and does not work, and why.
type Refused = Box<(Option<u64>, Error)>;

/// All that is known.
pub struct Report<'a> {
    pub name: String,
    pub context: usize,
    pub budgets: Vec<Result<Budget, Refused>>,
    pub machine: &'a Machine,
    pub outlook: &'a Outlook<'a>,
    /// What the user should know beside.
    pub note: Option<String>,
}

impl Report<'_> {
    fn info(&self) -> &ModelInfo {
        self.outlook.info
    }

    /// Prompts that the model's context holds.
    fn prompts(&self) -> impl Iterator<Item = usize> {
        let most = self.info().context_tokens;
        PROMPTS.into_iter().filter(move |&tokens| tokens <= most)
    }

    /// For people.
    pub fn text(&self) -> String {
        let info = self.info();
        let disk = self.outlook.disk;
        let mut text = vec![
            format!(
                "{} ({}): {} always in memory, {} in {} experts; a token uses {} of them in {} \
                 layers: {}",
                self.name,
                info.model_type,
                size::show(info.dense_bytes),
                size::show(info.expert_bytes),
                info.expert_records,
                info.top_k,
                info.moe_layers,
                size::show(info.token_expert_bytes),
            ),
            format!(
                "measured: disk {:.2} GB/s by {}; memory {:.1} GB/s; a token {:.1} ms with all its \
                 experts in memory, {:.1} ms with none",
                disk.bytes_per_second * 1e-9,
                disk.reader,
                self.machine.memory.median * 1e-9,
                self.outlook.decode.seconds(0.0) * 1e3,
                self.outlook.decode.seconds(1.0) * 1e3,
            ),
        ];
        text.extend(self.note.clone());
        text.push(String::new());
        text.extend(self.memory_table());
        text.push(String::new());
        text.extend(self.speed_table());
        for refused in self.budgets.iter().filter_map(|b| b.as_ref().err()) {
            let (given, problem) = refused.as_ref();
            let given = given.map_or("what is available".to_owned(), size::show);
            text.push(format!("\n{given}: {problem}"));
        }
        text.extend(self.help());
        text.join("\n")
    }

    fn workable(&self) -> impl Iterator<Item = &Budget> {
        self.budgets.iter().flatten()
    }

    /// How each bound is spent.
    fn memory_table(&self) -> Vec<String> {
        let context = format!("state, {} tokens", self.context);
        let titles = [
            "memory", "dense", &context, "scratch", "other", "experts", "of them",
        ];
        let rows = self.workable().map(|budget| {
            let Budget {
                memory,
                state_bytes,
                slots,
            } = budget;
            let share = *slots as f64 / self.info().expert_records.max(1) as f64;
            [
                size::show(memory.limit_bytes),
                size::show(memory.dense_bytes),
                size::show(*state_bytes),
                format!(
                    "{}, prompts {}",
                    size::show(memory.scratch_bytes),
                    size::show(memory.chunk_scratch_bytes)
                ),
                size::show(memory.overhead_bytes),
                size::show(slots * memory.slot_bytes),
                match slots {
                    0 => "context does not fit".to_owned(),
                    slots => format!("{slots}, {:.1} %", share * 100.0),
                },
            ]
        });
        table(titles, rows.collect())
    }

    /// What speed each gives.
    fn speed_table(&self) -> Vec<String> {
        let hits = format!("in memory ({})", self.outlook.hits.name());
        let mut prompts = self
            .prompts()
            .map(|tokens| format!("pp{tokens}"))
            .collect::<Vec<_>>();
        prompts.resize(PROMPTS.len(), String::new());
        let titles = [
            "memory",
            &hits,
            "MB read a token",
            "cold tok/s",
            "warm tok/s",
            "all in memory",
            &prompts[0],
            &prompts[1],
            &prompts[2],
        ];
        let fits = self.workable().filter(|budget| budget.slots > 0);
        let rows = fits.map(|budget| {
            let speeds = self.outlook.speeds(budget.slots);
            let read = (1.0 - speeds.hit_rate) * self.info().token_expert_bytes as f64;
            let prefill = |at: usize| match self.prompts().nth(at) {
                Some(tokens) => format!("{:.1}", self.prefill(budget, tokens)),
                None => String::new(),
            };
            [
                size::show(budget.memory.limit_bytes),
                format!("{:.1} %", speeds.hit_rate * 100.0),
                format!("{:.1}", read * 1e-6),
                format!("{:.2}", speeds.cold),
                format!("{:.2}", speeds.warm),
                format!("{:.2}", speeds.best),
                prefill(0),
                prefill(1),
                prefill(2),
            ]
        });
        table(titles, rows.collect())
    }

    fn prefill(&self, budget: &Budget, tokens: usize) -> f64 {
        let chunk = budget.memory.chunk_tokens;
        let model = &self.outlook.prefill;
        model.rate(0, tokens, chunk, 0.0, budget.slots)
    }

    /// What would help most, for the smallest bound that works.
    fn help(&self) -> Vec<String> {
        let fits = self.workable().filter(|budget| budget.slots > 0);
        let Some(budget) = fits.min_by_key(|budget| budget.memory.limit_bytes) else {
            return Vec::new();
        };
        let all = advice(budget, self.outlook);
        let given = size::show(budget.memory.limit_bytes);
        if all.is_empty() {
            return vec![format!(
                "\nwith {given}, only a faster processor would help"
            )];
        }
        let mut lines = vec![format!("\nwith {given}, this would help decoding:")];
        lines.extend(all.iter().map(|advice| {
            let (warm, gain) = (advice.warm, advice.gain);
            format!("  {warm:.2} tok/s ({gain:.2} times): {}", advice.change)
        }));
        lines
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let (info, outlook) = (self.info(), self.outlook);
        let budgets = self.budgets.iter().map(|budget| match budget {
            Ok(budget) => self.budget_json(budget),
            Err(refused) => {
                json!({"memory_bytes": refused.0, "error": refused.1.to_string()})
            }
        });
        json!({
            "model": self.name,
            "model_type": info.model_type,
            "context_tokens": self.context,
            "dense_bytes": info.dense_bytes,
            "expert_bytes": info.expert_bytes,
            "expert_records": info.expert_records,
            "token_expert_bytes": info.token_expert_bytes,
            "hit_rate_from": outlook.hits.name(),
            "note": self.note,
            "measured": {
                "disk_bytes_per_second": outlook.disk.bytes_per_second,
                "reader": outlook.disk.reader,
                "memory_bytes_per_second": self.machine.memory.best,
                "memory_median_bytes_per_second": self.machine.memory.median,
                "resident_token_s": outlook.decode.resident_seconds,
                "missing_layer_s": outlook.decode.layer_seconds,
                "missing_expert_s": outlook.decode.expert_seconds,
                "first_touch_expert_s": outlook.decode.touch_seconds,
            },
            "budgets": budgets.collect::<Vec<_>>(),
        })
    }

    fn budget_json(&self, budget: &Budget) -> Value {
        let memory = &budget.memory;
        let mut value = json!({
            "memory_bytes": memory.limit_bytes,
            "dense_bytes": memory.dense_bytes,
            "state_bytes": budget.state_bytes,
            "scratch_bytes": memory.scratch_bytes,
            "chunk_scratch_bytes": memory.chunk_scratch_bytes,
            "overhead_bytes": memory.overhead_bytes,
            "chunk_tokens": memory.chunk_tokens,
            "expert_slots": budget.slots,
            "arena_bytes": budget.slots * memory.slot_bytes,
            "context_fits": budget.slots > 0,
        });
        if budget.slots == 0 {
            return value;
        }
        let speeds = self.outlook.speeds(budget.slots);
        let token_bytes = self.info().token_expert_bytes as f64;
        let prefill = self
            .prompts()
            .map(|tokens| json!({"prompt_tokens": tokens, "tok_s": self.prefill(budget, tokens)}));
        let advice = advice(budget, self.outlook).into_iter().map(|advice| {
            json!({"change": advice.change, "warm_tok_s": advice.warm, "gain": advice.gain})
        });
        value["hit_rate"] = json!(speeds.hit_rate);
        value["read_bytes_per_token"] = json!((1.0 - speeds.hit_rate) * token_bytes);
        value["cold_tok_s"] = json!(speeds.cold);
        value["warm_tok_s"] = json!(speeds.warm);
        value["best_tok_s"] = json!(speeds.best);
        value["prefill"] = json!(prefill.collect::<Vec<_>>());
        value["would_help"] = json!(advice.collect::<Vec<_>>());
        value
    }
}

/// Columns as wide as they need to be, to the right.
pub(super) fn table<const N: usize>(titles: [&str; N], rows: Vec<[String; N]>) -> Vec<String> {
    let titles = titles.map(str::to_owned);
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().chain([&titles]);
        cells
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    });
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).filter(|(_, width)| *width > 0);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:>width$}"))
            .collect();
        format!("| {} |", cells.join(" | "))
    };
    let used = widths.iter().filter(|width| **width > 0);
    let rule: Vec<String> = used
        .map(|&width| format!("{:-<1$}:", "", width + 1))
        .collect();
    let mut lines = vec![line(&titles), format!("|{}|", rule.join("|"))];
    lines.extend(rows.iter().map(line));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell_and_empty_ones_are_left_out() {
        let rows = vec![["1".to_owned(), String::new(), "long".to_owned()]];
        let lines = table(["a", "", "b"], rows);
        assert_eq!(lines, ["| a |    b |", "|--:|-----:|", "| 1 | long |"]);
    }
}
