"""Makes a small vocabulary in tiktoken's form and what tiktoken makes of texts with it.

usage: make_tiktoken.py OUT
Tokens are the bytes, then the most frequent neighbours of a sample, merged again and again: within
words of the pattern that Kimi's models have. Run:

    pip install -r requirements.txt
    python make_tiktoken.py ../../../crates/moeflux/tests/fixtures/tiktoken
"""

import argparse
import base64
import json
from collections import Counter
from pathlib import Path

import tiktoken

PATTERN = "|".join(
    [
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
MERGES = 300
SAMPLE = """The experts that a token needs are read while others compute. They're chosen by a router.
Each expert's weights lie in one record; THE record IS read at once, 4096 bytes at a time.
    indented = code(with, [brackets], 12345)  # and comments
Größe über Ärger, naïve café, Ελληνικά, русский текст, 東京都は日本の首都です, 你好世界, 한국어 문장.
"""
TEXTS = [
    "",
    "The experts that a token needs",
    "They'LL don't WE'VE it's",
    "numbers 1 12 123 1234 1234567 3.14 ²½",
    "  leading and   inner    spaces \n\n lines \r\n\ttabs  ",
    "Größe ÜBER naïve café e\u0301 Ελληνικά русский",
    "東京都は日本の首都です。你好世界abc世界 한국어 문장 mixed漢字Text",
    "emoji 🎈👩‍👩‍👧 and symbols ∑≠→ «quotes» … --- ???!!!\n",
    "<|im_user|>user<|im_middle|>Hi<|im_end|> <|im_end |>",
    "code: fn main() { println!(\"{}\", a_b + B2); }",
    "\u0000\u0001\x7f control",
]
SPECIAL = ["[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_middle|>"]


def train():
    """Ranks of tokens: all bytes, then merges of the most frequent pairs in the sample's words."""
    import regex

    ranks = {bytes([byte]): byte for byte in range(256)}
    words = Counter(word.encode() for word in regex.findall(PATTERN, SAMPLE, regex.V1))
    split = {word: [bytes([byte]) for byte in word] for word in words}
    while len(ranks) < 256 + MERGES:
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(split[word], split[word][1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        ranks[best[0] + best[1]] = len(ranks)
        for word, parts in split.items():
            at = 0
            while at + 1 < len(parts):
                if (parts[at], parts[at + 1]) == best:
                    parts[at : at + 2] = [best[0] + best[1]]
                at += 1
    return ranks


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("out", type=Path)
    out = arguments.parse_args().out
    ranks = train()
    special = {token: len(ranks) + 2 * index for index, token in enumerate(SPECIAL)}
    encoding = tiktoken.Encoding(
        "small", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special
    )
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    (out / "tiktoken.model").write_text("".join(lines))
    decoder = {str(id): {"content": token, "special": True} for token, id in special.items()}
    config = {"tokenizer_class": "TikTokenTokenizer", "added_tokens_decoder": decoder}
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    cases = [
        {"text": text, "ids": encoding.encode(text, allowed_special="all")} for text in TEXTS
    ]
    golden = {"made_by": f"tiktoken {tiktoken.__version__}", "cases": cases}
    (out / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
