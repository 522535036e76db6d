//! The process stays within `--memory`, and within its control group whatever `--memory` says,
//! while it streams a model several times as large.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use moeflux_formats::{DType, SafetensorsWriter, TensorSpec};

const HIDDEN: usize = 1024;
const INTERMEDIATE: usize = 512;
const LAYERS: usize = 6;
const EXPERTS: usize = 128;
const VOCAB: usize = 512;
const HEADS: usize = 8;
const HEAD_DIM: usize = 64;
const LIMIT_BYTES: u64 = 512 << 20;

/// Random bf16 values of magnitude up to about 2^-5, by a multiplicative generator.
struct Random(u64);

impl Random {
    fn fill(&mut self, out: &mut [u8]) {
        for value in out.as_chunks_mut::<2>().0 {
            self.0 = self
                .0
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let bits = (self.0 >> 40) as u16;
            // Sign, an exponent of 2^-9 to 2^-6, mantissa.
            let exponent = 118 + ((bits >> 7) & 3);
            *value = ((bits & 0x8000) | (exponent << 7) | (bits & 0x7f)).to_le_bytes();
        }
    }
}

fn tensors() -> Vec<(String, Vec<usize>)> {
    let width = HEADS * HEAD_DIM;
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
        ("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            all.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        add("input_layernorm.weight", &[HIDDEN]);
        add("post_attention_layernorm.weight", &[HIDDEN]);
        for name in ["q_proj", "k_proj", "v_proj"] {
            add(&format!("self_attn.{name}.weight"), &[width, HIDDEN]);
        }
        add("self_attn.o_proj.weight", &[HIDDEN, width]);
        add("self_attn.q_norm.weight", &[HEAD_DIM]);
        add("self_attn.k_norm.weight", &[HEAD_DIM]);
        add("mlp.gate.weight", &[EXPERTS, HIDDEN]);
        add(
            "mlp.experts.gate_up_proj",
            &[EXPERTS, 2 * INTERMEDIATE, HIDDEN],
        );
        add("mlp.experts.down_proj", &[EXPERTS, HIDDEN, INTERMEDIATE]);
    }
    all
}

fn write_model(dir: &Path) {
    std::fs::create_dir_all(dir).expect("creates");
    let config = format!(
        r#"{{"model_type": "qwen3_moe", "hidden_size": {HIDDEN}, "num_hidden_layers": {LAYERS},
        "vocab_size": {VOCAB}, "num_attention_heads": {HEADS}, "num_key_value_heads": {HEADS},
        "head_dim": {HEAD_DIM}, "num_experts": {EXPERTS}, "num_experts_per_tok": 8,
        "moe_intermediate_size": {INTERMEDIATE}, "norm_topk_prob": true}}"#
    );
    std::fs::write(dir.join("config.json"), config).expect("writes");
    let tensors = tensors();
    let declared: Vec<TensorSpec> = tensors
        .iter()
        .map(|(n, s)| TensorSpec::new(n.as_str(), DType::Bf16, s.as_slice()))
        .collect();
    let path = dir.join("model.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &declared, 8).expect("creates");
    let mut random = Random(7);
    let mut block = vec![0; 1 << 20];
    for (_, shape) in &tensors {
        let mut left = shape.iter().product::<usize>() * 2;
        while left > 0 {
            let part = &mut block[..left.min(1 << 20)];
            random.fill(part);
            writer.write(part).expect("writes");
            left -= part.len();
        }
    }
    writer.finish().expect("finishes");
}

/// Runs the command and gives its peak resident memory in bytes, as the kernel counted it.
fn peak_bytes(arguments: &[&str]) -> u64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_moeflux"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let pid = i32::try_from(child.id()).expect("a process id");
    let mut status = 0;
    // SAFETY: an all-zero rusage is valid, and both pointers are to live values of these types.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::wait4(pid, &raw mut status, 0, &raw mut usage), pid);
        usage
    };
    // The child is gone; this only tidies the handle.
    let _ = child.try_wait();
    assert_eq!(status, 0, "moeflux {arguments:?} failed");
    u64::try_from(usage.ru_maxrss).expect("not negative") * 1024
}

#[test]
fn peak_memory_stays_within_the_bound() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let model = dir.path().join("model");
    write_model(&model);
    let packed = dir.path().join("packed");
    let out = dir.path().join("logits.safetensors");
    // More than half of them are one step, with scratch memory that is given back afterwards.
    let tokens: Vec<String> = (0..600).map(|i| (i * 37 % VOCAB).to_string()).collect();
    let (model, packed) = (
        model.to_str().expect("UTF-8"),
        packed.to_str().expect("UTF-8"),
    );
    let experts_bytes = (LAYERS * EXPERTS * 3 * HIDDEN * INTERMEDIATE * 2) as u64;
    assert!(experts_bytes > 2 << 30);

    let peak = peak_bytes(&["pack", model, "-o", packed, "--bits", "16"]);
    assert!(peak < LIMIT_BYTES, "pack took {peak} bytes");

    let mut answers = Vec::new();
    for (dir, reader) in [(model, "direct"), (packed, "direct"), (packed, "buffered")] {
        for stepwise in [false, true] {
            let tokens = tokens[..if stepwise { 12 } else { 600 }].join(",");
            let mut arguments = vec!["eval", "logits", "-m", dir, "--tokens", &tokens];
            arguments.extend(["-o", out.to_str().expect("UTF-8"), "--reader", reader]);
            arguments.extend(["--memory", "512MiB"]);
            if stepwise {
                arguments.push("--stepwise");
            }
            let peak = peak_bytes(&arguments);
            assert!(peak <= LIMIT_BYTES, "{dir} {reader} took {peak} bytes");
            // A bound that is hardly used would prove nothing.
            assert!(
                stepwise || peak > LIMIT_BYTES / 2,
                "{dir} {reader} took only {peak} bytes"
            );
            if !stepwise {
                answers.push(std::fs::read(&out).expect("reads"));
            }
        }
    }
    assert!(
        answers.windows(2).all(|w| w[0] == w[1]),
        "the answers differ"
    );
    within_a_control_group(packed, &tokens[..96].join(","), &out);
}

/// A control group with a limit of its own; removed in the end.
struct Group(PathBuf);

impl Group {
    /// `None` where the test may not make one.
    fn new(limit_bytes: u64) -> Option<Group> {
        let places = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        places.iter().find_map(|(root, limit)| {
            let dir = Path::new(root).join(format!("moeflux-test-{}", std::process::id()));
            std::fs::create_dir(&dir).ok()?;
            let group = Group(dir);
            std::fs::write(group.0.join(limit), limit_bytes.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What is left of it is empty and harmless.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A bound that the group does not have would end the process, were it not noticed.
fn within_a_control_group(model: &str, tokens: &str, out: &Path) {
    let Some(group) = Group::new(LIMIT_BYTES) else {
        eprintln!("skipped: no control group with a memory limit can be made here");
        return;
    };
    let mut answers = Vec::new();
    for memory in [None, Some("8GiB")] {
        let script = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&group.0);
        command.arg(env!("CARGO_BIN_EXE_moeflux"));
        command
            .args(["eval", "logits", "-m", model, "--tokens", tokens, "-o"])
            .arg(out);
        command.args(memory.map(|size| ["--memory", size]).into_iter().flatten());
        let ran = command.stdin(Stdio::null()).output().expect("starts");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{memory:?}: {} {said}", ran.status);
        answers.push(std::fs::read(out).expect("reads"));
    }
    assert_eq!(answers[0], answers[1]);
}
