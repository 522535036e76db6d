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
    index_margin: float  # the same of scores that an attention's index ranks, by their deviation
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
    choices = []
    hooks = [
        module.register_forward_hook(
            lambda module, args, out: choices.append(rankings(module, args, out[0], top_k))
        )
        for module in model.modules()
        if type(module).__name__.lower().endswith("topkrouter")
    ]
    indexes = []
    hooks_of_indexes = [
        watch_index(module, indexes)
        for module in model.modules()
        if any(hasattr(module, field) for field in ("scorer", "index_kpool"))
    ]
    hooks_of_indexes += [
        module.register_forward_hook(
            lambda index, args, out: indexes.append(block_margin(index, *args[:2]))
        )
        for module in model.modules()
        if type(module).__name__.endswith("QSAIndexer")
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
    for hook in hooks + hooks_of_indexes:
        hook.remove()
    return Reference(
        tokens=tokens,
        logits=logits,
        greedy_tokens=torch.stack(chosen),
        greedy_margins=torch.stack(margins),
        router_margin=min(boundary_margin(*ranking) for layer in choices for ranking in layer),
        index_margin=min(indexes, default=1.0),
        expert_share=least_expert_share([layer[-1] for layer in choices[-len(hooks) :]]),
        stepwise_error=stepwise_error(model, tokens, logits),
        spread=logits.std(dim=0).mean().item(),
    )


@torch.no_grad()
def forward(model, tokens):
    return model(tokens[None], use_cache=False).logits[0].float()


def rankings(router, args, logits, top_k):
    """What a router ranks, with how many of them it keeps: groups of experts first, if it has any
    to leave out, then experts, whose values in groups that are out are minus infinity."""
    bias = getattr(router, "e_score_correction_bias", args[1] if len(args) > 1 else None)
    groups = getattr(router, "num_group", None) or 1
    if bias is None and groups == 1:
        return [(logits, top_k)]
    score = getattr(router, "score_fn", torch.sigmoid)
    values = logits.softmax(dim=-1) if bias is None else score(logits) + bias
    if groups == 1 or getattr(router, "topk_method", None) == "greedy":
        return [(values, top_k)]
    grouped = values.view(len(values), groups, -1)
    best = grouped.amax(dim=-1) if bias is None else grouped.topk(2, dim=-1).values.sum(dim=-1)
    kept = torch.zeros_like(best).scatter_(1, best.topk(router.topk_group).indices, 1).bool()
    masked = grouped.masked_fill(~kept[..., None], float("-inf")).flatten(1)
    return [(best, router.topk_group), (masked, top_k)]


def watch_index(index, margins):
    """A hook that adds the `index_margin` of each call of an index."""
    if hasattr(index, "scorer"):
        sizes = (index.compress_rate, index.index_topk)
        return index.scorer.register_forward_hook(
            lambda scorer, args, out: margins.append(index_margin(out[0], *sizes))
        )
    sizes = (index.index_kpool, index.index_topk // index.index_kpool)
    return index.register_forward_hook(
        lambda index, args, kwargs, out: margins.append(
            index_margin(pool_scores(index, kwargs["hidden_states"], kwargs["q_resid"]), *sizes)
        ),
        with_kwargs=True,
    )


def pool_scores(index, hidden, q_resid):
    """What GLM-5.3-Flash ranks windows of positions by, `[n, windows]`, for one whole sequence."""
    n = hidden.shape[1]
    keys = index.k_norm(index.wk(hidden))
    gates = hidden @ index.index_kpool_compress_gate.T
    packed = torch.cat([keys, gates, torch.ones(1, n, 1)], dim=-1)
    pools = index.get_pooled_states(packed_states=packed)[0][0]
    queries = index.wq_b(q_resid)[0].view(n, -1, index.head_dim)
    return torch.einsum("nhp,nh->np", (queries @ pools.T).relu(), index.weights_proj(hidden)[0])


def index_margin(scores, rate, top_k):
    """The smallest distance between the last entry that an index keeps and the first that it leaves
    out, over the queries that see more than it keeps, in standard deviations of the scores."""
    margins = []
    for position, row in enumerate(scores):
        seen = row[: (position + 1) // rate]
        if len(seen) > top_k:
            ordered = seen.sort(descending=True).values
            margins.append(((ordered[top_k - 1] - ordered[top_k]) / seen.std()).item())
    return min(margins)


def block_margin(index, hidden, embeddings):
    """The same of an index whose blocks have the mean of their positions' keys."""
    cos, sin = embeddings[0][0], embeddings[1][0]
    heads, dim, rate = index.index_n_heads, index.index_head_dim, index.compress_ratio
    projected = index.index_qk_proj(hidden[0])
    queries, keys = projected.split([heads * dim, dim], dim=-1)
    queries = index.q_layernorm(queries.view(-1, heads, dim))
    blocks = len(keys) // rate
    keys = index.k_layernorm(keys[: blocks * rate].view(blocks, rate, dim).mean(dim=1))
    queries = turned(queries, cos[:, None], sin[:, None])
    keys = turned(keys, cos[: blocks * rate : rate], sin[: blocks * rate : rate])
    scores = torch.relu(queries @ keys.T).sum(dim=1)
    margins = [1.0]
    for position, row in enumerate(scores):
        seen = row[: (position + 1) // rate]
        if len(seen) > index.block_topk:
            ordered = seen.sort(descending=True).values
            margin = ordered[index.block_topk - 1] - ordered[index.block_topk]
            margins.append((margin / seen.std()).item())
    return min(margins)


def turned(x, cos, sin):
    """Rotates the first elements of `x`, in halves."""
    width = cos.shape[-1]
    first, second = x[..., : width // 2], x[..., width // 2 : width]
    across = torch.cat([-second, first], dim=-1)
    return torch.cat([x[..., :width] * cos + across * sin, x[..., width:]], dim=-1)


def boundary_margin(values, count):
    ordered = values.sort(dim=-1, descending=True).values
    return (ordered[:, count - 1] - ordered[:, count]).min().item()


def least_expert_share(layers):
    shares = []
    for values, top_k in layers:
        counts = values.topk(top_k).indices.flatten().bincount(minlength=values.shape[-1])
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
