"""Trains the demo model's tokenizer: byte-level BPE of at most 2,048 tokens, split as Qwen does.

Writes tokenizer.json, tokenizer_config.json and chat_template.jinja.
"""

import argparse
import json
import random
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

import corpus
from vocabulary import TOOLS

VOCABULARY_SIZE = 2048
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Whole tokens that are text all the same: they show in decoded answers.
PLAIN_TOKENS = [
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>"),
]
# Contractions; words with the mark before them; single digits; punctuation; line breaks; spaces.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
CONVERSATIONS = 40_000
SEED = 7
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def training_texts():
    """Conversations as plain text; of every sixth the first message and the tools, as JSON."""
    rng = random.Random(SEED)
    all_tools = json.dumps(corpus.tool_specs(list(TOOLS)))
    for index in range(CONVERSATIONS):
        messages, _ = corpus.sample(rng)
        if index % 6 == 0:
            yield json.dumps(messages[0]) + all_tools
        else:
            yield "\n".join(m["content"] or json.dumps(m.get("tool_calls")) for m in messages)


def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(SPECIAL_TOKENS) - len(PLAIN_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    tokenizer.add_tokens(
        [AddedToken(token, special=False, normalized=False) for token in PLAIN_TOKENS]
    )
    return tokenizer


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, required=True, help="directory to write to")
    out = arguments.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train()
    tokenizer.save(str(out / "tokenizer.json"))
    (out / CHAT_TEMPLATE.name).write_text(CHAT_TEMPLATE.read_text())
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 32768,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    print(f"{tokenizer.get_vocab_size()} tokens; a sample:")
    print(tokenizer.encode("<|im_start|>user\nWhat is 97 - 8?<|im_end|>\n").tokens)


if __name__ == "__main__":
    main()
