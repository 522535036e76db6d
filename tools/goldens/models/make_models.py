"""Makes the golden fixtures: tiny random checkpoints and what transformers answers to a prompt.

usage: make_models.py [--out DIR] [--only NAME]
Takes about a minute. The same versions (requirements.txt) give the same files.
"""

import argparse
import json
import platform
import tempfile
import textwrap
from pathlib import Path

import numpy
import safetensors
import torch
import transformers
from transformers import AutoConfig

import layouts
import reference
from specs import SPECS
from weights import randomize

REPOSITORY = Path(__file__).resolve().parents[3]
# A fixture whose router nearly ties would test rounding, not the engine: try other seeds.
SMALLEST_ROUTER_MARGIN = 5e-4
SMALLEST_INDEX_MARGIN = 1e-5
SMALLEST_EXPERT_SHARE = 0.01
SMALLEST_SPREAD = 1.0
LARGEST_STEPWISE_ERROR = 1e-4
SEEDS = 60


def build(spec, seed):
    """The model with random weights, in f32, made from the fixture's own config.json."""
    with tempfile.TemporaryDirectory() as directory:
        layouts.write_json(Path(directory) / "config.json", spec.config)
        config = AutoConfig.from_pretrained(
            directory, attn_implementation="eager", experts_implementation="eager"
        )
    model = getattr(transformers, spec.model_class)._from_config(config, dtype=torch.float32)
    randomize(model, spec, seed)
    return model.eval()


def find(spec, first_seed):
    """The first seed whose model has clear router choices, and its reference answers."""
    for seed in range(first_seed, first_seed + SEEDS):
        model = build(spec, seed)
        vocab_size = model.config.get_text_config().vocab_size
        answers = reference.compute(model, reference.prompt(spec, vocab_size, seed))
        if is_clear(answers) and answers.expert_share >= SMALLEST_EXPERT_SHARE:
            check(spec, answers)
            return seed, model, answers
    raise RuntimeError(f"{spec.name}: no seed of {SEEDS} gives clear router choices")


def is_clear(answers):
    """Whether no choice nearly ties."""
    return (
        answers.router_margin >= SMALLEST_ROUTER_MARGIN
        and answers.index_margin >= SMALLEST_INDEX_MARGIN
    )


def check(spec, answers):
    """What no seed should change; a failure means that the initialization must."""
    if not torch.isfinite(answers.logits).all():
        raise RuntimeError(f"{spec.name}: logits are not finite")
    if answers.spread < SMALLEST_SPREAD:
        raise RuntimeError(f"{spec.name}: logits hardly differ: spread {answers.spread}")
    if answers.stepwise_error > LARGEST_STEPWISE_ERROR:
        raise RuntimeError(f"{spec.name}: unstable reference: {answers.stepwise_error}")


def check_files(spec, directory, model, answers):
    """transformers must read back the very same weights, whatever layout they are stored in."""
    reread = reference.load(directory, spec)
    expected, found = model.state_dict(), reread.state_dict()
    if expected.keys() != found.keys():
        raise RuntimeError(f"{spec.name}: names differ: {expected.keys() ^ found.keys()}")
    different = [name for name in expected if not torch.equal(expected[name], found[name])]
    if different:
        raise RuntimeError(f"{spec.name}: transformers reads other values in {different}")
    # Not bit for bit: matrix products round differently when the file's tensors lie unaligned.
    error = (reference.forward(reread, answers.tokens) - answers.logits).abs().max().item()
    if error > 1e-4:
        raise RuntimeError(f"{spec.name}: logits of the written files are off by {error}")


def make(spec, first_seed, out):
    """Writes one fixture and returns its row for the table."""
    seed, model, answers = find(spec, first_seed)
    directory = out / spec.name
    layouts.write_checkpoint(layouts.named_tensors(model, spec, seed), spec, directory)
    check_files(spec, directory, model, answers)
    layouts.publish_config(spec, directory)
    layouts.save(
        directory / "golden.safetensors",
        {
            "tokens": answers.tokens.to(torch.uint32),
            "logits": answers.logits,
            "greedy_tokens": answers.greedy_tokens.to(torch.uint32),
            "greedy_margins": answers.greedy_margins,
        },
        # One entry: the library writes several in random order, and equal runs should match.
        {"golden": json.dumps({"about": spec.about, "seed": seed, **versions()})},
    )
    size = sum(file.stat().st_size for file in directory.iterdir())
    return (
        f"| `{spec.name}` | {spec.about} | {spec.prompt_tokens} | {size / 1e3:.0f} kB "
        f"| {answers.router_margin:.1e} | {answers.greedy_margins.min():.1e} "
        f"| {answers.stepwise_error:.0e} | {answers.spread:.1f} |"
    )


def versions():
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "safetensors": safetensors.__version__,
        "numpy": numpy.__version__,
    }


README = """# Golden fixtures

Tiny random checkpoints and what `transformers` answers to a prompt in float32 on the CPU (eager
attention, eager experts, no custom kernels). Made by `tools/goldens/models/make_models.py`, which
{versions}

Each directory is a Hugging Face checkpoint (`config.json`, `generation_config.json`,
`model*.safetensors`) without a tokenizer, and `golden.safetensors`:

| tensor | dtype, shape | |
|---|---|---|
| `tokens` | U32 [n] | the prompt |
| `logits` | F32 [n, vocab] | logits after each token of the prompt |
| `greedy_tokens` | U32 [24] | what follows when the best token is taken each time |
| `greedy_margins` | F32 [24] | best logit minus second best at each of these steps |

Weights are rounded to the stored dtype before the reference computes with them, so a file holds
exactly what the reference used. Every tensor is random (norms, `A_log`, `dt_bias` and convolutions
too), wide enough that logits differ clearly between tokens and positions.

Router margin: smallest distance between the last expert (or group of experts) chosen and the first
one not chosen, over all layers and tokens, prompt and continuation. Greedy margin: the smallest of `greedy_margins`.
Where attention has an index, the entries that it leaves out are as clear: 1e-5 of the deviation of its scores.
Self: relative L2, worst position, between `transformers` fed at once and `transformers` fed token
by token. Spread: standard deviation of a logit over positions. The test that reads all this is
`crates/moeflux/tests/goldens.rs`.

| directory | what | prompt | size | router margin | greedy margin | self | spread |
|---|---|---|---|---|---|---|---|
{table}
"""


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=REPOSITORY / "fixtures")
    arguments.add_argument("--only", choices=[spec.name for spec in SPECS])
    options = arguments.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # the order of sums must not depend on the machine's cores
    rows = []
    for index, spec in enumerate(SPECS):
        if options.only in (None, spec.name):
            rows.append(make(spec, 1000 * (index + 1), options.out))
            print(rows[-1], flush=True)
    if options.only is None:
        listed = ", ".join(f"{name} {version}" for name, version in versions().items())
        wrapped = textwrap.fill(f"also writes this file, with {listed}.", width=100)
        readme = README.format(versions=wrapped, table="\n".join(rows))
        (options.out / "README.md").write_text(readme)


if __name__ == "__main__":
    main()
