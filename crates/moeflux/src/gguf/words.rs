//! Rules that cut text into words before byte-level BPE merges within them, by the name that
//! `tokenizer.ggml.pre` gives a rule. A rule is what the published tokenizers of that name have:
//! whether text is brought into Unicode form NFC first, and patterns, each of which cuts the
//! pieces that those before it have left.

use crate::text::KIMI_WORDS;

/// Steps before merging.
pub(super) struct Words {
    /// Names of the rule.
    names: &'static [&'static str],
    /// Whether text is brought into Unicode form NFC.
    pub nfc: bool,
    /// Whether a word that is a token itself is taken without merging.
    pub ignore_merges: bool,
    /// What is cut out, one pattern after another.
    pub patterns: &'static [&'static str],
}

static RULES: [Words; 11] = [
    Words {
        names: &["qwen2", "deepseek-r1-qwen"],
        nfc: true,
        ignore_merges: false,
        patterns: &[concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
    },
    // Combining marks belong to words.
    Words {
        names: &["qwen35"],
        nfc: true,
        ignore_merges: false,
        patterns: &[concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
            r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
    },
    Words {
        names: &["llama-bpe", "llama3", "llama-v3"],
        nfc: false,
        ignore_merges: true,
        patterns: &[NUMBERS_IN_THREES],
    },
    Words {
        names: &["glm4"],
        nfc: false,
        ignore_merges: true,
        patterns: &[NUMBERS_IN_THREES],
    },
    Words {
        names: &["chatglm-bpe"],
        nfc: false,
        ignore_merges: false,
        patterns: &[NUMBERS_IN_THREES],
    },
    Words {
        names: &["kimi-k2"],
        nfc: false,
        ignore_merges: true,
        patterns: &[KIMI_WORDS],
    },
    Words {
        names: &["gpt-2"],
        nfc: false,
        ignore_merges: false,
        patterns: &[GPT_2],
    },
    Words {
        names: &["olmo"],
        nfc: true,
        ignore_merges: false,
        patterns: &[GPT_2],
    },
    Words {
        names: &["deepseek-v3", "joyai-llm"],
        nfc: false,
        ignore_merges: false,
        patterns: &[
            r"\p{N}{1,3}",
            r"[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+",
            concat!(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
                r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*",
                r"|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
        ],
    },
    Words {
        names: &["deepseek-llm"],
        nfc: false,
        ignore_merges: false,
        patterns: &[
            r"[\r\n]",
            DEEPSEEK_LETTERS,
            r"\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}]+",
            r"\s+$",
            r"[\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+",
            r"\p{N}+",
        ],
    },
    // Upper and lower case apart, numbers in threes.
    Words {
        names: &["gpt-4o", "minimax-m2"],
        nfc: false,
        ignore_merges: false,
        patterns: &[concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
    },
];

/// A run of letters of the scripts that have upper and lower case.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[",
    r"A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}",
    r"\x{295}-\x{2af}\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}\x{37f}\x{386}",
    r"\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1}\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}",
    r"\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5}\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}",
    r"\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}",
    r"\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b}",
    r"\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4}",
    r"\x{1fc6}-\x{1fcc}\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}",
    r"\x{1ff6}-\x{1ffc}\x{2102}\x{2107}\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124}",
    r"\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f}",
    r"\x{2145}-\x{2149}\x{214e}\x{2183}\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}",
    r"\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}",
    r"\x{a771}-\x{a787}\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}",
    r"\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}\x{10400}-\x{1044f}\x{104b0}-\x{104d3}",
    r"\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}\x{118a0}-\x{118df}",
    r"\x{1e900}-\x{1e943}",
    r"]+",
);

const NUMBERS_IN_THREES: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

impl Words {
    /// The rule of that name.
    pub fn named(name: &str) -> Option<&'static Words> {
        RULES.iter().find(|words| words.names.contains(&name))
    }

    /// All names, for messages.
    pub fn names() -> String {
        let names = RULES.iter().flat_map(|words| words.names);
        names.copied().collect::<Vec<_>>().join(", ")
    }
}
