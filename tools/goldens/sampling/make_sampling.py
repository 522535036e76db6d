"""Filters random logits with transformers' logits processors and stores what they keep.

    pip install -r requirements.txt
    python make_sampling.py ../../../crates/moeflux/tests/fixtures/sampling/filters.json
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCAB = 300
# (name, spread of the logits, parameters); None leaves a processor out, as transformers does.
CASES = [
    ("temperature", 3.0, {"temperature": 0.7}),
    ("top_k", 3.0, {"temperature": 1.0, "top_k": 7}),
    ("top_k_over_vocab", 3.0, {"temperature": 1.0, "top_k": 1000}),
    ("top_p", 3.0, {"temperature": 1.0, "top_p": 0.9}),
    ("top_p_wide", 0.3, {"temperature": 1.0, "top_p": 0.95}),
    ("top_p_tiny", 3.0, {"temperature": 1.0, "top_p": 0.01}),
    ("min_p", 3.0, {"temperature": 1.3, "min_p": 0.05}),
    ("min_p_all", 3.0, {"temperature": 1.0, "min_p": 1.0}),
    ("repetition", 3.0, {"temperature": 1.0, "repetition_penalty": 1.3}),
    ("reward", 3.0, {"temperature": 1.0, "repetition_penalty": 0.8}),
    (
        "all",
        3.0,
        {
            "temperature": 0.8,
            "top_k": 40,
            "top_p": 0.9,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
        },
    ),
]


def processors(parameters):
    """The processors in the order of transformers' generation loop."""
    kinds = {
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    return LogitsProcessorList(
        kind(parameters[name]) for name, kind in kinds.items() if name in parameters
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    generator = torch.Generator().manual_seed(20)
    cases = []
    for name, spread, parameters in CASES:
        logits = torch.randn(1, VOCAB, generator=generator) * spread
        history = torch.randint(0, VOCAB, (1, 40), generator=generator)
        scores = processors(parameters)(history, logits.clone())
        probabilities = torch.softmax(scores.double(), dim=-1)[0]
        kept = torch.nonzero(torch.isfinite(scores[0])).flatten().tolist()
        cases.append(
            {
                "name": name,
                "parameters": parameters,
                "history": history[0].tolist(),
                "logits": logits[0].tolist(),
                "kept": kept,
                "probabilities": [float(f"{probabilities[token]:.9g}") for token in kept],
            }
        )
        print(f"{name}: keeps {len(kept)} of {VOCAB}")
    golden = {"made_by": f"transformers {transformers.__version__}", "cases": cases}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
