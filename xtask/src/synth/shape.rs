//! The shapes that can be made, as the configurations of published models.

use serde_json::{Value, json};

/// Sizes of a model of the architecture `qwen3_5_moe_text`.
#[derive(Clone, Debug)]
pub struct Shape {
    /// What it is called on the command line.
    pub name: &'static str,
    hidden: usize,
    /// Number of layers.
    pub layers: usize,
    experts: usize,
    top_k: usize,
    /// Of a routed expert, and of the shared one.
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    delta_key_heads: usize,
    delta_value_heads: usize,
    delta_head_dim: usize,
    vocab: usize,
    context_tokens: usize,
}

/// The first has the defaults of `Qwen3_5MoeTextConfig` in transformers 5.23; the others what their
/// model cards say. That the numbers make models of 35, 122 and 397 billion parameters is tested.
const SHAPES: [Shape; 4] = [
    Shape {
        name: "qwen3.6-35b-a3b",
        hidden: 2048,
        layers: 40,
        experts: 256,
        top_k: 8,
        intermediate: 512,
        heads: 16,
        kv_heads: 2,
        head_dim: 256,
        delta_key_heads: 16,
        delta_value_heads: 32,
        delta_head_dim: 128,
        vocab: 248_320,
        context_tokens: 262_144,
    },
    Shape {
        name: "qwen3.5-122b-a10b",
        hidden: 3072,
        layers: 48,
        experts: 256,
        top_k: 8,
        intermediate: 1024,
        heads: 32,
        kv_heads: 2,
        head_dim: 256,
        delta_key_heads: 16,
        delta_value_heads: 64,
        delta_head_dim: 128,
        vocab: 248_320,
        context_tokens: 262_144,
    },
    Shape {
        name: "qwen3.5-397b-a17b",
        hidden: 4096,
        layers: 60,
        experts: 512,
        top_k: 10,
        intermediate: 1024,
        heads: 32,
        kv_heads: 2,
        head_dim: 256,
        delta_key_heads: 16,
        delta_value_heads: 64,
        delta_head_dim: 128,
        vocab: 248_320,
        context_tokens: 262_144,
    },
    Shape {
        name: "tiny",
        hidden: 256,
        layers: 4,
        experts: 32,
        top_k: 4,
        intermediate: 64,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        delta_key_heads: 2,
        delta_value_heads: 4,
        delta_head_dim: 64,
        vocab: 1024,
        context_tokens: 4096,
    },
];

impl Shape {
    /// The shape of that name; an ending `-4l` cuts it to 4 layers.
    pub fn find(name: &str) -> Option<Shape> {
        let named = |name: &str| SHAPES.iter().find(|shape| shape.name == name).cloned();
        named(name).or_else(|| {
            let (whole, layers) = name.strip_suffix('l')?.rsplit_once('-')?;
            let layers = layers.parse().ok().filter(|&layers| layers > 0)?;
            Some(Shape {
                layers,
                ..named(whole)?
            })
        })
    }

    /// The names of all shapes.
    pub fn names() -> Vec<&'static str> {
        SHAPES.iter().map(|shape| shape.name).collect()
    }

    /// Its `config.json`.
    pub fn config(&self) -> Value {
        json!({
            "architectures": ["Qwen3_5MoeForCausalLM"],
            "model_type": "qwen3_5_moe_text",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "full_attention_interval": 4,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "attn_output_gate": true,
            "attention_bias": false,
            "hidden_act": "silu",
            "linear_conv_kernel_dim": 4,
            "linear_num_key_heads": self.delta_key_heads,
            "linear_num_value_heads": self.delta_value_heads,
            "linear_key_head_dim": self.delta_head_dim,
            "linear_value_head_dim": self.delta_head_dim,
            "num_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "moe_intermediate_size": self.intermediate,
            "shared_expert_intermediate_size": self.intermediate,
            "max_position_embeddings": self.context_tokens,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000_000,
                "partial_rotary_factor": 0.25
            },
            "tie_word_embeddings": false,
            "dtype": "bfloat16"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Shape;

    #[test]
    fn an_ending_cuts_layers() {
        assert_eq!(Shape::find("qwen3.6-35b-a3b").unwrap().layers, 40);
        assert_eq!(Shape::find("qwen3.6-35b-a3b-4l").unwrap().layers, 4);
        for wrong in [
            "",
            "qwen",
            "tiny-l",
            "tiny-0l",
            "tiny-4",
            "-4l",
            "tiny-4l-4l",
        ] {
            assert!(Shape::find(wrong).is_none(), "{wrong}");
        }
    }
}
