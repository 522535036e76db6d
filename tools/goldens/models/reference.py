"""The reference answers: transformers in float32 on the CPU, eager attention, eager experts."""

from dataclasses import dataclass

import torch
import transformers

GREEDY_TOKENS = 24


@dataclass
class Reference:
    """Answers to one prompt, and what tells whether they are worth comparing with."""

    tokens: torch.Tensor  # [n] prompt
    logits: torch.Tensor  # [n, vocab]
    greedy_tokens: torch.Tensor  # [GREEDY_TOKENS] continuation of the prompt
    greedy_margins: torch.Tensor  # [GREEDY_TOKENS] best logit minus second best
    router_margin: float  # smallest (k-th best) - (k+1-th best) router logit at any token and layer
    expert_share: float  # share of choices that fell on the least used expert of any layer
    stepwise_error: float  # relative L2 of logits fed one token at a time with a cache
    spread: float  # standard deviation of a vocabulary entry's logit over positions, averaged


def load(directory, spec):
    """The model as transformers reads it from the written files."""
    model_class = getattr(transformers, spec.model_class)
    model, info = model_class.from_pretrained(
        directory,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    unexpected = {key for key in info["unexpected_keys"] if not key.startswith("mtp.")}
    if info["missing_keys"] or unexpected or info["mismatched_keys"]:
        raise RuntimeError(f"{directory}: transformers does not read these files cleanly: {info}")
    return model.eval()


def prompt(spec, vocab_size, seed):
    """Random tokens with both ends of the vocabulary and one repeated passage in it."""
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.tensor([t for t in range(vocab_size) if t not in spec.reserved_tokens])
    tokens = allowed[torch.randint(len(allowed), (spec.prompt_tokens,), generator=generator)]
    tokens[0], tokens[1] = vocab_size - 1, 0
    passage = spec.prompt_tokens // 4
    tokens[-passage:] = tokens[2 : 2 + passage].clone()
    return tokens


@torch.no_grad()
def compute(model, tokens):
    """Logits at all positions, the greedy continuation and the fixture's measures of quality."""
    top_k = model.config.get_text_config().num_experts_per_tok
    router_logits = []
    hooks = [
        module.register_forward_hook(lambda _module, _args, out: router_logits.append(out[0]))
        for module in model.modules()
        if type(module).__name__.endswith("TopKRouter")
    ]
    logits = forward(model, tokens)
    sequence, chosen, margins = tokens, [], []
    last = logits[-1]
    for _ in range(GREEDY_TOKENS):
        best = last.topk(2)
        chosen.append(best.indices[0])
        margins.append(best.values[0] - best.values[1])
        sequence = torch.cat([sequence, best.indices[:1]])
        last = forward(model, sequence)[-1]
    for hook in hooks:
        hook.remove()
    return Reference(
        tokens=tokens,
        logits=logits,
        greedy_tokens=torch.stack(chosen),
        greedy_margins=torch.stack(margins),
        router_margin=min(boundary_margin(layer, top_k) for layer in router_logits),
        expert_share=least_expert_share(router_logits[-len(hooks) :], top_k),
        stepwise_error=stepwise_error(model, tokens, logits),
        spread=logits.std(dim=0).mean().item(),
    )


@torch.no_grad()
def forward(model, tokens):
    return model(tokens[None], use_cache=False).logits[0].float()


def boundary_margin(router_logits, top_k):
    ordered = router_logits.sort(dim=-1, descending=True).values
    return (ordered[:, top_k - 1] - ordered[:, top_k]).min().item()


def least_expert_share(router_logits, top_k):
    shares = []
    for layer in router_logits:
        counts = layer.topk(top_k).indices.flatten().bincount(minlength=layer.shape[-1])
        shares.append(counts.min().item() / counts.sum().item())
    return min(shares)


def stepwise_error(model, tokens, logits):
    """How far transformers is from itself when it takes its other path (recurrent, cached)."""
    cache, rows = None, []
    for token in tokens:
        out = model(token.view(1, 1), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        rows.append(out.logits[0, -1].float())
    difference = torch.stack(rows) - logits
    return (difference.norm(dim=-1) / logits.norm(dim=-1)).max().item()
