"""Makes a small vocabulary of SentencePiece's BPE kind and what sentencepiece makes of texts with it.

usage: make_sentencepiece.py --llama-cpp LLAMA_CPP_CHECKOUT OUT
Trained as the vocabularies of Llama and Mixtral: bytes for what has no piece, a space before the
text, no other change to it. Writes `tokenizer.model`, `tokenizer_config.json`, the same as GGUF by
llama.cpp's converter, and `golden.json`: ids by sentencepiece, and by transformers of texts with
tokens of the model's own. Run:

    pip install -r requirements.txt
    python make_sentencepiece.py --llama-cpp DIR ../../../crates/moeflux/tests/fixtures/sentencepiece
"""

import argparse
import json
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import sentencepiece

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
SAMPLE = """The experts that a token needs are read while others compute. They're chosen by a router.
Each expert's weights lie in one record; THE record IS read at once, 4096 bytes at a time.
    indented = code(with, [brackets], 12345)  # and comments
A mixture of experts keeps dense weights in memory and reads the routed ones when they are chosen.
Größe über Ärger, naïve café, Ελληνικά, русский текст, 東京都は日本の首都です, 你好世界, 한국어 문장.
"""
TEXTS = [
    "",
    " ",
    "  ",
    "The experts that a token needs",
    " They'LL don't WE'VE it's",
    "numbers 1 12 123 1234 1234567 3.14 ²½",
    "  leading and   inner    spaces \n\n lines \r\n\ttabs  ",
    "Größe ÜBER naïve café e\u0301 Ελληνικά русский",
    "東京都は日本の首都です。你好世界abc世界 한국어 문장 mixed漢字Text",
    "emoji 🎈👩‍👩‍👧 and symbols ∑≠→ «quotes» … --- ???!!!\n",
    "code: fn main() { println!(\"{}\", a_b + B2); }",
    "\u0001\x7f control \u2581 spelled \u2581\u2581 out",
    "<0x0A> <unk> is text here, <0x41>",
    "aaaaaaaaaaaa thethethethe eeeeee rererere",
    "mixturesofexpertsthatarereadwhentheyarechosen",
]
# transformers puts no space before a text behind such a token that begins with one, as it puts none
# before such a text at all: no text here does.
MARKED = [
    "<s>[INST] Which experts? [/INST] The chosen ones.</s>",
    "<s>[INST]a[/INST]</s><s>b",
    "x<s>y </s>z",
    "before <|mark|>after<|mark|>\n<|mark|><s>",
]
CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "legacy": True,
    # Conversions know such a piece by this alone.
    "added_tokens_decoder": {"3": {"content": "<|mark|>", "special": False}},
    "chat_template": "{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}",
}


def train(out):
    """The vocabulary, with a piece of the user's own beside those that are found."""
    with tempfile.TemporaryDirectory() as directory:
        sample = Path(directory) / "sample.txt"
        sample.write_text(SAMPLE * 4)
        sentencepiece.SentencePieceTrainer.train(
            input=str(sample),
            model_prefix=str(Path(directory) / "tokenizer"),
            model_type="bpe",
            vocab_size=700,
            character_coverage=0.985,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            byte_fallback=True,
            split_digits=True,
            user_defined_symbols=["<|mark|>"],
            num_threads=1,
        )
        shutil.copy(Path(directory) / "tokenizer.model", out / "tokenizer.model")


def convert(converter, out):
    """The same vocabulary as GGUF, by the converter's own command line."""
    config = json.loads((REPOSITORY / "fixtures/mixtral/config.json").read_text())
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / "made"
        made.mkdir()
        (made / "config.json").write_text(json.dumps({**config, "vocab_size": 704}))
        for name in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copy(out / name, made / name)
        arguments = [str(made), "--vocab-only", "--outfile", str(out / "vocabulary.gguf")]
        sys.path[:0] = [str(converter.parent), str(converter.parent / "gguf-py")]
        sys.argv = [str(converter), *arguments]
        runpy.run_path(str(converter), run_name="__main__")


def golden(out):
    from transformers import AutoTokenizer

    processor = sentencepiece.SentencePieceProcessor(str(out / "tokenizer.model"))
    ids = [processor.encode(text) for text in TEXTS]
    back = [processor.decode(found) for found in ids]
    tokenizer = AutoTokenizer.from_pretrained(out)
    marked = [tokenizer.encode(text, add_special_tokens=False) for text in MARKED]
    cases = [{"text": t, "ids": i, "back": b} for t, i, b in zip(TEXTS, ids, back)]
    marked = [{"text": t, "ids": i} for t, i in zip(MARKED, marked)]
    made = json.dumps({"cases": cases, "marked": marked}, ensure_ascii=True, indent=1)
    (out / "golden.json").write_text(made + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-cpp", type=Path, required=True)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train(options.out)
    (options.out / "tokenizer_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    golden(options.out)
    convert(options.llama_cpp.resolve() / "convert_hf_to_gguf.py", options.out)


if __name__ == "__main__":
    main()
