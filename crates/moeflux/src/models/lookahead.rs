//! Adds [`Op::Lookahead`] to a graph: at the start of each layer with routed experts, its router is
//! applied to the residual stream as it is then, before the layer's mixer has added to it. The disk
//! has nothing else to do while the mixer runs.

use crate::graph::{BufferId, Graph, Op};

/// Puts a lookahead before each layer whose norm and router are found in the usual places:
/// `router(norm(x + mixer))`, with a bias or without. Layers of another form go without.
pub(super) fn insert(graph: &mut Graph) {
    let mut guesses: Vec<(usize, Op)> = graph
        .ops
        .iter()
        .filter_map(|op| of_layer(graph, op))
        .collect();
    guesses.sort_by_key(|(place, _)| *place);
    for (place, guess) in guesses.into_iter().rev() {
        graph.ops.insert(place, guess);
    }
}

/// The lookahead for the layer that `request` asks for, and its place.
fn of_layer(graph: &Graph, request: &Op) -> Option<(usize, Op)> {
    let &Op::RequestExperts {
        ids, top_k, layer, ..
    } = request
    else {
        return None;
    };
    let (
        _,
        &Op::Router {
            logits, experts, ..
        },
    ) = writer(graph, ids)?
    else {
        return None;
    };
    let (logits, bias) = match writer(graph, logits)? {
        (_, &Op::AddBias { x, bias, .. }) => (x, Some(bias)),
        _ => (logits, None),
    };
    let (_, Op::Matmul { x, outputs, .. }) = writer(graph, logits)? else {
        return None;
    };
    let &(router, _) = outputs.iter().find(|(_, out)| *out == logits)?;
    let (_, &Op::RmsNorm { x, weight, eps, .. }) = writer(graph, *x)? else {
        return None;
    };
    let (_, &Op::Add { a, .. }) = writer(graph, x)? else {
        return None;
    };
    let (before, _) = writer(graph, a)?;
    let guess = Op::Lookahead {
        x: a,
        norm: weight,
        eps,
        router,
        bias,
        experts,
        top_k,
        layer,
    };
    Some((before + 1, guess))
}

/// The operation that writes a buffer, and its place.
fn writer(graph: &Graph, buffer: BufferId) -> Option<(usize, &Op)> {
    let mut ops = graph.ops.iter().enumerate();
    ops.find(|(_, op)| op.writes().contains(&buffer))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    #[test]
    fn routers_with_and_without_a_bias_are_found() {
        for (model, layers, is_biased) in [("gpt_oss", 4, true), ("mixtral", 3, false)] {
            let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
            let config = Config::open(&fixtures.join(model)).expect("it is there");
            let blueprint = crate::models::blueprint(&config).expect("it is supported");
            let guesses = blueprint.graph.ops.iter().filter_map(|op| match op {
                Op::Lookahead { bias, .. } => Some(bias.is_some()),
                _ => None,
            });
            let guesses: Vec<bool> = guesses.collect();
            assert_eq!(guesses, vec![is_biased; layers], "{model}");
        }
    }
}
