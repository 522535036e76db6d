"""Trains the demo model (qwen3_5_moe, 16.6 M parameters) from scratch on the synthetic corpus.

Saves a Hugging Face checkpoint in bf16 with the tokenizer's files beside it, and
eval_transformers_bf16.json: prompts, expected answers and the model's own greedy answers.
"""

import argparse
import json
import os
import random
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeExperts

import corpus

SEQUENCE_TOKENS = 512
FIRST_CORPUS_SEED = 1000
EVALUATION_SEED = 99
PEAK_LEARNING_RATE = 3e-3
BALANCE_WEIGHT = 0.002
TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]


@dataclass
class Scale:
    """How much work one run is."""

    batch: int  # sequences a step
    corpus_parts: int  # each from its own seed
    part_conversations: int
    evaluation_prompts: int
    answer_tokens: int  # at most, when evaluating
    log_every_steps: int


SCALES = {
    # The published run: 109 M tokens in 400 seconds on one H100.
    "cuda": Scale(96, 96, 4000, 80, 80, 100),
    # Enough to see that everything runs.
    "cpu": Scale(2, 2, 60, 40, 4, 5),
}


def model_config():
    return Qwen3_5MoeTextConfig(
        vocab_size=2048,
        hidden_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=128,
        num_experts=32,
        num_experts_per_tok=4,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 100000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
        output_router_logits=False,
        router_aux_loss_coef=0.001,
    )


def dense_experts(self, hidden_states, top_k_index, top_k_weights):
    """All experts as one wide MLP masked by the routing weights.

    The same function as the sparse form, and faster where experts are this small.
    """
    experts, rows, hidden = self.gate_up_proj.shape
    inner = rows // 2
    weights = torch.zeros(
        hidden_states.shape[0], experts, dtype=hidden_states.dtype, device=hidden_states.device
    ).scatter(1, top_k_index, top_k_weights.to(hidden_states.dtype))
    gate = self.gate_up_proj[:, :inner].reshape(experts * inner, hidden)
    up = self.gate_up_proj[:, inner:].reshape(experts * inner, hidden)
    activated = F.silu(F.linear(hidden_states, gate)) * F.linear(hidden_states, up)
    activated = activated.view(-1, experts, inner) * weights.unsqueeze(-1)
    down = self.down_proj.permute(1, 0, 2).reshape(hidden, experts * inner)
    return F.linear(activated.view(-1, experts * inner), down)


def part_tokens(seed, tokenizer_dir, conversations):
    """Conversations of one seed as tokens, one after another, each ended by <|endoftext|>."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    separator = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    rng = random.Random(seed)
    tokens = []
    for _ in range(conversations):
        messages, tools = corpus.sample(rng)
        text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
        tokens += tokenizer(text, add_special_tokens=False).input_ids + [separator]
    return np.array(tokens, dtype=np.int16)


def training_sequences(tokenizer_dir, scale):
    """The corpus as a tensor [sequences, SEQUENCE_TOKENS]."""
    seeds = range(FIRST_CORPUS_SEED, FIRST_CORPUS_SEED + scale.corpus_parts)
    make = partial(
        part_tokens, tokenizer_dir=tokenizer_dir, conversations=scale.part_conversations
    )
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as workers:
        tokens = np.concatenate(list(workers.map(make, seeds)))
    whole = len(tokens) // SEQUENCE_TOKENS * SEQUENCE_TOKENS
    return torch.from_numpy(tokens[:whole].astype(np.int64)).view(-1, SEQUENCE_TOKENS)


def make_optimizer(model, device):
    """AdamW; weight decay on matrices only."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0, betas=(0.9, 0.95), fused=device == "cuda")


def learning_rate(step, elapsed):
    """A hundred steps up, level until half the time is spent, then down to 2 %."""
    warm_up = min(1, (step + 1) / 100)
    decay = 1 if elapsed < 0.5 else max(0.02, (1 - elapsed) / 0.5)
    return PEAK_LEARNING_RATE * warm_up * decay


def imbalance(router_outputs):
    """1 where all experts of a layer are used equally, more where they are not; layers' mean."""
    total = 0.0
    for logits, _, chosen in router_outputs:
        probabilities = logits.float().softmax(-1)
        experts, top_k = probabilities.shape[-1], chosen.shape[-1]
        ones = torch.ones(chosen.numel(), device=chosen.device)
        load = torch.zeros(experts, device=chosen.device).scatter_add(0, chosen.reshape(-1), ones)
        load = load / chosen.shape[0]
        total = total + experts / top_k * (load * probabilities.mean(0)).sum()
    return total / len(router_outputs)


def next_token_loss(model, batch):
    with torch.autocast(batch.device.type, torch.bfloat16):
        logits = model(batch, use_cache=False).logits
        predictions = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
        return F.cross_entropy(predictions, batch[:, 1:].reshape(-1))


def batches(sequences, batch):
    """Endless batches in random order, reshuffled when fewer than one batch is left."""
    while True:
        order = torch.randperm(len(sequences))
        for start in range(0, len(order) - batch + 1, batch):
            yield sequences[order[start : start + batch]]


def train(model, sequences, seconds, scale):
    """Trains for `seconds`; the schedule follows the clock, so speed decides the steps."""
    router_outputs = []
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(
            lambda _module, _arguments, output: router_outputs.append(output)
        )
    optimizer = make_optimizer(model, sequences.device.type)
    start, step = time.time(), 0
    for batch in batches(sequences, scale.batch):
        elapsed = (time.time() - start) / seconds
        if elapsed >= 1:
            break
        rate = learning_rate(step, elapsed)
        for group in optimizer.param_groups:
            group["lr"] = rate
        router_outputs.clear()
        loss = next_token_loss(model, batch)
        balance = imbalance(router_outputs)
        (loss + BALANCE_WEIGHT * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % scale.log_every_steps == 0:
            print(
                f"step {step}  loss {loss.item():.4f}  imbalance {balance.item():.3f}  "
                f"rate {rate:.1e}  {time.time() - start:.0f} s",
                flush=True,
            )
        step += 1
    tokens = step * scale.batch * SEQUENCE_TOKENS
    print(f"trained {step} steps, {tokens / 1e6:.1f} M tokens", flush=True)


def save(model, tokenizer, tokenizer_dir, out):
    """The checkpoint in bf16, with the tokenizer's files and the stop tokens."""
    end_of_text, end_of_message = stop_tokens(tokenizer)
    model.config.eos_token_id = end_of_message
    model.generation_config.eos_token_id = [end_of_message, end_of_text]
    model.generation_config.do_sample = False
    model.save_pretrained(out, max_shard_size="100MB")
    for name in TOKENIZER_FILES:
        shutil.copyfile(Path(tokenizer_dir) / name, Path(out) / name)


def stop_tokens(tokenizer):
    return [tokenizer.convert_tokens_to_ids(token) for token in ("<|endoftext|>", "<|im_end|>")]


@torch.no_grad()
def answer(model, tokenizer, messages, tools, max_tokens):
    """The model's greedy answer as text, special tokens left out."""
    text = tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=True
    )
    prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    end_of_text, end_of_message = stop_tokens(tokenizer)
    output = model.generate(
        prompt.to(model.device),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=[end_of_message, end_of_text],
        pad_token_id=end_of_text,
    )
    return tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True).strip()


def evaluate(model, tokenizer, scale, out):
    """Answers the held-out prompts and writes them down beside the checkpoint."""
    records, per_skill = [], {}
    prompts = corpus.evaluation(EVALUATION_SEED, scale.evaluation_prompts)
    for skill, messages, tools, expected in prompts:
        given = answer(model, tokenizer, messages, tools, scale.answer_tokens)
        right_all = per_skill.setdefault(skill, [0, 0])
        right_all[0] += given == expected
        right_all[1] += 1
        records.append(
            {
                "skill": skill,
                "messages": messages,
                "tools": tools,
                "expected": expected,
                "answer": given,
            }
        )
    (Path(out) / "eval_transformers_bf16.json").write_text(json.dumps(records, indent=1))
    right = sum(counts[0] for counts in per_skill.values())
    print(f"right: {right} of {len(prompts)}", per_skill, flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--tokenizer", type=Path, required=True, help="made by tokenizer.py")
    arguments.add_argument("--out", type=Path, required=True, help="directory of the checkpoint")
    arguments.add_argument("--seconds", type=float, default=400.0, help="training time")
    arguments.add_argument("--device", choices=sorted(SCALES), default="cuda")
    options = arguments.parse_args()
    scale = SCALES[options.device]
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    start = time.time()
    sequences = training_sequences(options.tokenizer, scale).to(options.device)
    print(f"{sequences.numel() / 1e6:.2f} M tokens in {time.time() - start:.0f} s", flush=True)
    Qwen3_5MoeExperts.forward = dense_experts
    model = Qwen3_5MoeForCausalLM(model_config()).to(options.device)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters", flush=True)
    train(model, sequences, options.seconds, scale)
    model = model.to(torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    save(model, tokenizer, options.tokenizer, options.out)
    evaluate(model, tokenizer, scale, options.out)
    story = [{"role": "user", "content": "Tell me a story about Mia and the lake."}]
    print(answer(model, tokenizer, story, None, 2 * scale.answer_tokens), flush=True)


if __name__ == "__main__":
    main()
