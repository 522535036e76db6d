//! Routers and routed experts, as the architectures share them.

use moeflux_kernels::{Glu, GroupedRouting, Scores};

use super::blueprint::{BlueprintBuilder, ExpertLayer, MatrixClass, VectorFold};
use crate::graph::{BufferId, ExpertForm, Op};

/// What a layer's router has chosen.
#[derive(Clone, Copy, Debug)]
pub struct Routed {
    x: BufferId,
    ids: BufferId,
    weights: BufferId,
    top_k: usize,
    layer: usize,
}

/// Sizes of a layer's routed experts.
#[derive(Clone, Copy, Debug)]
pub struct RoutedShape {
    /// Number of experts.
    pub experts: usize,
    /// Experts that a token uses.
    pub top_k: usize,
    /// Elements between an expert's projections.
    pub intermediate: usize,
    /// Whether the chosen weights are divided by their sum.
    pub renormalize: bool,
}

/// How experts are chosen by groups; the other numbers are in [`RoutedShape`].
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    /// Groups of consecutive experts, of equal size.
    pub groups: usize,
    /// Groups whose experts take part.
    pub kept: usize,
    /// What scores are made of.
    pub scores: Scores,
    /// Factor of the weights.
    pub scale: f32,
}

impl BlueprintBuilder {
    /// Router of a layer with routed experts, their names beginning with `name` (`layers.3.mlp`):
    /// softmax over all experts, top k, weights renormalized if asked. The chosen experts are
    /// asked for; whatever does not need them comes best before [`BlueprintBuilder::experts`].
    pub fn route(&mut self, x: BufferId, layer: usize, name: &str, shape: RoutedShape) -> Routed {
        let [logits] = self.project(
            x,
            MatrixClass::Sensitive,
            [(format!("{name}.gate"), shape.experts, "router logits")],
        );
        self.route_by((x, logits), layer, name, shape)
    }

    /// The same by a router with a bias, whose name ends in `router`.
    pub fn route_biased(
        &mut self,
        x: BufferId,
        layer: usize,
        name: &str,
        shape: RoutedShape,
    ) -> Routed {
        let router = format!("{name}.router");
        let [logits] = self.project(
            x,
            MatrixClass::Sensitive,
            [(router.clone(), shape.experts, "router logits")],
        );
        let logits = self.add_bias(logits, format!("{router}.bias"), "router biased");
        self.route_by((x, logits), layer, name, shape)
    }

    fn route_by(
        &mut self,
        (x, logits): (BufferId, BufferId),
        layer: usize,
        name: &str,
        shape: RoutedShape,
    ) -> Routed {
        let routed = self.choice(x, layer, shape);
        self.graph.push(Op::Router {
            logits,
            experts: shape.experts,
            top_k: shape.top_k,
            renormalize: shape.renormalize,
            ids: routed.ids,
            weights: routed.weights,
        });
        self.request(routed, name, shape);
        routed
    }

    /// Router of a layer with routed experts by groups; `bias` is the name of the vector that
    /// corrects scores where they are ranked.
    pub fn route_grouped(
        &mut self,
        x: BufferId,
        layer: usize,
        name: &str,
        (shape, groups): (RoutedShape, Groups),
        bias: Option<String>,
    ) -> Routed {
        let [logits] = self.project(
            x,
            MatrixClass::Sensitive,
            [(format!("{name}.gate"), shape.experts, "router logits")],
        );
        let bias = bias.map(|bias| self.vector(bias, &[shape.experts], VectorFold::None));
        let routed = self.choice(x, layer, shape);
        self.graph.push(Op::GroupedRouter {
            logits,
            bias,
            rule: rule(shape, groups),
            ids: routed.ids,
            weights: routed.weights,
        });
        self.request(routed, name, shape);
        routed
    }

    /// Experts that a table `{name}.gate.tid2eid` has for each token of the vocabulary, weighed by
    /// the router's scores.
    pub fn route_by_token(
        &mut self,
        x: BufferId,
        layer: usize,
        name: &str,
        (shape, groups): (RoutedShape, Groups),
        vocab: usize,
    ) -> Routed {
        let [logits] = self.project(
            x,
            MatrixClass::Sensitive,
            [(format!("{name}.gate"), shape.experts, "router logits")],
        );
        let numbers = VectorFold::Numbers {
            count: shape.experts,
        };
        let table = format!("{name}.gate.tid2eid");
        let table = self.vector(table, &[vocab, shape.top_k], numbers);
        let routed = self.choice(x, layer, shape);
        self.graph.push(Op::TokenRouter {
            logits,
            table,
            rule: rule(shape, groups),
            ids: routed.ids,
            weights: routed.weights,
        });
        self.request(routed, name, shape);
        routed
    }

    /// The buffers of a choice that is to be made.
    fn choice(&mut self, x: BufferId, layer: usize, shape: RoutedShape) -> Routed {
        Routed {
            x,
            ids: self.graph.buffer("expert ids", shape.top_k),
            weights: self.graph.buffer("expert weights", shape.top_k),
            top_k: shape.top_k,
            layer,
        }
    }

    /// Asks for the chosen experts and declares the layer's.
    fn request(&mut self, routed: Routed, name: &str, shape: RoutedShape) {
        self.graph.push(Op::RequestExperts {
            ids: routed.ids,
            weights: routed.weights,
            top_k: routed.top_k,
            layer: routed.layer,
        });
        self.experts.push(ExpertLayer {
            layer: routed.layer,
            name: format!("{name}.experts"),
            matrices: self.expert_matrices,
            is_turned: self.has_turned_experts,
            experts: shape.experts,
            hidden: self.hidden,
            intermediate: shape.intermediate,
        });
    }

    /// The routed experts of a layer.
    pub fn experts(&mut self, routed: Routed) -> BufferId {
        self.experts_with(routed, ExpertForm::default())
    }

    /// The same in any form.
    pub fn experts_with(&mut self, routed: Routed, form: ExpertForm) -> BufferId {
        let Routed {
            x,
            ids,
            weights,
            top_k,
            layer,
        } = routed;
        let out = self.graph.buffer("experts out", self.hidden);
        self.graph.push(Op::Experts {
            x,
            ids,
            weights,
            top_k,
            layer,
            form,
            out,
        });
        out
    }

    /// Softmax routing beside a shared expert behind a scalar gate, as the Qwen families have it.
    pub fn gated_shared_moe(
        &mut self,
        x: BufferId,
        layer: usize,
        name: &str,
        shape: RoutedShape,
        shared_intermediate: usize,
    ) -> BufferId {
        let routed = self.route(x, layer, name, shape);
        let shared = self.mlp(x, &format!("{name}.shared_expert"), shared_intermediate);
        let [gate] = self.project(
            x,
            MatrixClass::Sensitive,
            [(format!("{name}.shared_expert_gate"), 1, "shared gate")],
        );
        let scaled = self.graph.buffer("shared scaled", self.hidden);
        self.graph.push(Op::ScaleBySigmoid {
            x: shared,
            gate,
            out: scaled,
        });
        let experts = self.experts(routed);
        self.add(experts, scaled, "moe out")
    }

    /// A gated MLP with an activation of any form; its matrices are called as an expert's are.
    pub fn glu_mlp(&mut self, x: BufferId, name: &str, intermediate: usize, rule: Glu) -> BufferId {
        let [gate, up, down] = self.expert_matrices;
        let [gate, up] = self.project(
            x,
            MatrixClass::Dense,
            [
                (format!("{name}.{gate}"), intermediate, "mlp gate"),
                (format!("{name}.{up}"), intermediate, "mlp up"),
            ],
        );
        let act = self.graph.buffer("mlp activation", intermediate);
        self.graph.push(Op::Glu {
            gate,
            up,
            rule,
            out: act,
        });
        let down = (format!("{name}.{down}"), self.hidden, "mlp out");
        let [out] = self.project(act, MatrixClass::Dense, [down]);
        out
    }

    /// What a router chose, plus shared experts that every token uses: one MLP with the same
    /// activation.
    pub fn shared_glu_moe(
        &mut self,
        routed: Routed,
        name: &str,
        intermediate: usize,
        glu: Glu,
    ) -> BufferId {
        let shared = self.glu_mlp(
            routed.x,
            &format!("{name}.shared_experts"),
            intermediate,
            glu,
        );
        let form = ExpertForm { glu, biases: None };
        let experts = self.experts_with(routed, form);
        self.add(experts, shared, "moe out")
    }

    /// What a router chose, plus shared experts that every token uses: one MLP.
    pub fn shared_moe(&mut self, routed: Routed, name: &str, intermediate: usize) -> BufferId {
        let shared = self.mlp(routed.x, &format!("{name}.shared_experts"), intermediate);
        let experts = self.experts(routed);
        self.add(experts, shared, "moe out")
    }
}

fn rule(shape: RoutedShape, groups: Groups) -> GroupedRouting {
    GroupedRouting {
        experts: shape.experts,
        top_k: shape.top_k,
        groups: groups.groups,
        kept_groups: groups.kept,
        scores: groups.scores,
        renormalize: shape.renormalize,
        scale: groups.scale,
    }
}
