//! How tokens are picked: the parameters that several paths share.

use std::collections::BTreeMap;

use moeflux::sampling::SamplingParams;
use serde_json::Value;

use crate::app::App;
use crate::http::{ApiError, Fields};
use crate::scheduler::Job;

/// The most stop sequences of a request, and the most bytes of one.
const STOP_SEQUENCES: usize = 16;
const STOP_BYTES: usize = 1024;

/// How tokens are picked and when to stop.
#[derive(Clone, Debug)]
pub struct Sampling {
    params: SamplingParams,
    logit_bias: Vec<(u32, f32)>,
    /// Text that ends an answer.
    pub stops: Vec<String>,
    /// Go on behind the model's own end.
    ignore_end: bool,
}

impl Sampling {
    /// Takes the parameters, `stop` being the name of the stop sequences. Those not given are the model's own suggestion, and temperature 1
    /// where that says nothing.
    ///
    /// # Errors
    /// A value of the wrong type or outside its range.
    pub fn take(app: &App, fields: &mut Fields, stop: &str) -> Result<Sampling, ApiError> {
        let suggested = &app.model.generation.suggested;
        let greedy = SamplingParams::default();
        let natural = match suggested.do_sample {
            Some(false) => 0.0,
            _ => suggested.temperature.unwrap_or(1.0),
        };
        let temperature = fields.number("temperature", 0.0, 100.0)?;
        let vocab = app.model.engine.info().vocab_size;
        let top_p = fields.number("top_p", 0.0, 1.0)?.or(suggested.top_p);
        let top_k = fields.count("top_k", 0, usize::MAX)?.or(suggested.top_k);
        let min_p = fields.number("min_p", 0.0, 1.0)?.or(suggested.min_p);
        let repetition = fields.number("repetition_penalty", 0.01, 100.0)?;
        let seed: Option<i64> = fields.take("seed")?;
        let params = SamplingParams {
            temperature: temperature.unwrap_or(natural),
            top_k: top_k.unwrap_or(greedy.top_k),
            // Nothing reaches less than the most likely token.
            top_p: top_p.unwrap_or(greedy.top_p).max(f32::MIN_POSITIVE),
            min_p: min_p.unwrap_or(greedy.min_p),
            repetition_penalty: repetition
                .or(suggested.repetition_penalty)
                .unwrap_or(greedy.repetition_penalty),
            presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            frequency_penalty: fields
                .number("frequency_penalty", -2.0, 2.0)?
                .unwrap_or(0.0),
            seed: seed.map_or_else(|| app.seed(), |seed| seed as u64),
        };
        Ok(Sampling {
            params,
            logit_bias: logit_bias(fields, vocab)?,
            stops: stops(fields, stop)?,
            ignore_end: fields.take("ignore_eos")?.unwrap_or(false),
        })
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.params.seed
    }

    /// A job with these.
    pub fn job(&self, app: &App, prompt: Vec<u32>) -> Job {
        let mut job = Job::new(prompt);
        job.sampling = self.params.clone();
        job.logit_bias.clone_from(&self.logit_bias);
        if !self.ignore_end {
            job.stop_tokens
                .clone_from(&app.model.generation.stop_tokens);
        }
        job
    }
}

fn logit_bias(fields: &mut Fields, vocab: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let given: BTreeMap<String, f32> = fields.take("logit_bias")?.unwrap_or_default();
    let mut biases = Vec::with_capacity(given.len());
    for (token, bias) in given {
        let place = format!("logit_bias.{token}");
        let id = token.parse().ok().filter(|id| (*id as usize) < vocab);
        let id = id.ok_or_else(|| {
            let problem = format!("is not a token; they go from 0 to {}", vocab - 1);
            ApiError::value(&place, problem)
        })?;
        if !(-100.0..=100.0).contains(&bias) {
            let problem = format!("must be between -100 and 100, not {bias}");
            return Err(ApiError::value(&place, problem));
        }
        biases.push((id, bias));
    }
    Ok(biases)
}

/// Takes stop sequences: one text or a list.
///
/// # Errors
/// Something else, an empty or very long one, or too many.
fn stops(fields: &mut Fields, name: &str) -> Result<Vec<String>, ApiError> {
    let stops = match fields.take::<Value>(name)? {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => {
            let text = |value: Value| match value {
                Value::String(text) => Ok(text),
                _ => Err(ApiError::value(name, "must be text or a list of texts")),
            };
            many.into_iter().map(text).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(ApiError::value(name, "must be text or a list of texts")),
    };
    if stops.len() > STOP_SEQUENCES {
        let problem = format!("has {} sequences; at most {STOP_SEQUENCES}", stops.len());
        return Err(ApiError::value(name, problem));
    }
    match stops.iter().find(|s| s.is_empty() || s.len() > STOP_BYTES) {
        None => Ok(stops),
        Some(_) => {
            let problem = format!("sequences must have 1 to {STOP_BYTES} bytes");
            Err(ApiError::value(name, problem))
        }
    }
}
