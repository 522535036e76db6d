//! `GET /live`: the machine at work as server-sent events; `web/src/live.ts` describes them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use moeflux::cost::StepShape;
use moeflux::experts::{LayerPresence, Presence};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::app::App;
use crate::http::{Frames, Gone, stream};
use crate::scheduler::Progress;

/// Least time between two events.
const EVERY: Duration = Duration::from_millis(200);
/// Most time between two events.
const AT_LEAST_EVERY: Duration = Duration::from_secs(2);

/// Sends events until the client goes or the server stops.
pub async fn live(State(app): State<Arc<App>>) -> Response {
    stream(move |frames| watch(app, frames))
}

async fn watch(app: Arc<App>, frames: Frames) -> Result<(), Gone> {
    let mut arrivals = app.metrics.overview.arrivals();
    let weights = Weights::of(&app);
    let (mut layers, stats) = look(&app).await?;
    frames
        .send(Some("machine"), &machine(&app, &layers, &stats))
        .await?;
    let mut changed = (0..layers.len())
        .map(|at| (at, states(&layers[at], None)))
        .collect();
    let mut last = now(&app, &stats, &weights);
    let mut sent = Instant::now();
    frames
        .send(Some("now"), &with_experts(&app, last.clone(), changed))
        .await?;
    while !app.is_draining() {
        let wait = async {
            tokio::time::sleep_until(sent + EVERY).await;
            // A short answer would be over before the next look.
            tokio::select! {
                _ = arrivals.changed() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        };
        frames.meanwhile(wait, AT_LEAST_EVERY, ": \n\n").await?;
        let (fresh, stats) = look(&app).await?;
        let pairs = layers.iter().zip(&fresh).enumerate();
        let differ = pairs.filter(|(_, (old, new))| old != new);
        changed = differ
            .map(|(at, (old, new))| (at, states(new, Some(old))))
            .collect();
        let figures = now(&app, &stats, &weights);
        if changed.is_empty() && figures == last && sent.elapsed() < AT_LEAST_EVERY {
            continue;
        }
        frames
            .send(Some("now"), &with_experts(&app, figures.clone(), changed))
            .await?;
        (layers, last, sent) = (fresh, figures, Instant::now());
    }
    Ok(())
}

/// What the engine holds: waits for the end of a step, on a thread that may wait.
async fn look(app: &Arc<App>) -> Result<(Vec<LayerPresence>, moeflux::Stats), Gone> {
    let engine = Arc::clone(&app.model.engine);
    let looked = tokio::task::spawn_blocking(move || (engine.presence(), engine.stats()));
    looked.await.map_err(|_| Gone)
}

fn machine(app: &App, layers: &[LayerPresence], stats: &moeflux::Stats) -> Value {
    let shape =
        |layer: &LayerPresence| json!({"layer": layer.layer, "experts": layer.experts.len()});
    json!({
        "model": app.model.name(),
        "version": env!("CARGO_PKG_VERSION"),
        "layers": layers.iter().map(shape).collect::<Vec<_>>(),
        "experts_per_token": app.model.engine.info().top_k,
        "slot_bytes": stats.experts.slot_bytes,
        "reader": stats.experts.reader,
        "threads": stats.threads,
        "memory_bytes": stats.limit_bytes,
        "parallel": app.options.limits.parallel,
    })
}

/// The event `now` without its time and experts.
fn now(app: &App, stats: &moeflux::Stats, weights: &Weights) -> Value {
    let experts = &stats.experts;
    let metrics = &app.metrics;
    let listed = metrics.overview.listed();
    let asked = (experts.hits + experts.misses) as f64;
    let memory_bytes =
        metrics.steps.get() as f64 * weights.step_bytes + asked * weights.expert_bytes;
    json!({
        "slots": experts.slots,
        "resident": experts.resident,
        "total": {
            "prompt_tokens": metrics.prompt_tokens.get(),
            "answer_tokens": metrics.generated_tokens.get(),
            "hits": experts.hits,
            "misses": experts.misses,
            "evictions": experts.evictions,
            "read_bytes": experts.bytes_read,
            "memory_bytes": memory_bytes as u64,
            "wait_seconds": experts.wait_us_total as f64 * 1e-6,
        },
        "requests": listed.requests.iter().map(request).collect::<Vec<_>>(),
        "request_count": listed.count,
    })
}

fn request(progress: &Progress) -> Value {
    json!({
        "phase": progress.phase.name(),
        "prompt_tokens": progress.prompt_tokens,
        "prompt_done": progress.prompt_done,
        "answer_tokens": progress.answer_tokens,
    })
}

/// What steps go through in memory.
struct Weights {
    /// Bytes of resident weights in a step.
    step_bytes: f64,
    /// Bytes of an expert, in the mean of all layers that have them.
    expert_bytes: f64,
}

impl Weights {
    fn of(app: &App) -> Weights {
        let shape = StepShape {
            start: 0,
            tokens: 1,
            outputs: 1,
            experts: 0.0,
        };
        let with_one = StepShape {
            experts: 1.0,
            ..shape
        };
        let costs = app.model.engine.costs();
        let bytes = |shape: StepShape| costs.iter().map(move |cost| cost.work(shape).bytes);
        let experts = bytes(with_one)
            .zip(bytes(shape))
            .map(|(one, none)| one - none);
        let experts: Vec<f64> = experts.filter(|bytes| *bytes > 0.0).collect();
        Weights {
            step_bytes: bytes(shape).sum(),
            expert_bytes: experts.iter().sum::<f64>() / experts.len().max(1) as f64,
        }
    }
}

fn with_experts(app: &App, mut figures: Value, changed: Vec<(usize, String)>) -> Value {
    figures["seconds"] = json!(app.metrics.uptime().as_secs_f64());
    figures["experts"] = json!(changed);
    figures
}

/// A character for each expert of a layer, as it was at the event before and is now.
fn states(new: &LayerPresence, old: Option<&LayerPresence>) -> String {
    let of_expert = |(expert, presence): (usize, &Presence)| {
        if old.is_some_and(|old| old.uses[expert] < new.uses[expert]) {
            return 'u';
        }
        match presence {
            Presence::Absent => '.',
            Presence::Reading => 'r',
            Presence::Guess => 'g',
            Presence::Present => 'm',
        }
    };
    new.experts.iter().enumerate().map(of_expert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expert_in_use_is_shown_as_such() {
        let old = LayerPresence {
            layer: 3,
            experts: vec![Presence::Absent; 5],
            uses: vec![1.0; 5],
        };
        let mut new = old.clone();
        new.experts = vec![
            Presence::Absent,
            Presence::Reading,
            Presence::Guess,
            Presence::Present,
            Presence::Present,
        ];
        new.uses[4] = 2.0;
        assert_eq!(states(&new, Some(&old)), ".rgmu");
        assert_eq!(states(&new, None), ".rgmm");
    }
}
