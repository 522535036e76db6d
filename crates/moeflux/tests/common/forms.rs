//! Checkpoints in the quantized forms that they are published in.

/// Directories under `fixtures/formats`, the codec of their experts, and whether its kernels round
/// activations to 8 bits where asked.
pub const FORMS: [(&str, &str, bool); 8] = [
    ("qwen3_moe_f8", "f8-e4m3, f8-e4m3-bf16", false),
    ("qwen3_moe_int4", "centered-b4-g32", true),
    ("qwen3_moe_mxfp4", "mxfp4", true),
    ("gpt_oss_mxfp4", "mxfp4", true),
    ("qwen3_moe_nvfp4", "nvfp4", true),
    ("qwen3_5_moe_nvfp4", "nvfp4", true),
    ("deepseek_v4_f8", "mxfp4", true),
    ("qwen3_5_moe_mlx", "affine-b3-g32, affine-b5-g32", true),
];
