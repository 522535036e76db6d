/** Colours for code, by what most languages share: comments, strings, numbers, keywords. */

/** A piece of code and its kind; plain where there is none. */
export interface Piece {
  kind?: "comment" | "string" | "number" | "keyword" | "call";
  text: string;
}

const KEYWORDS = new Set(
  `abstract and as assert async await bool boolean break case catch char class const continue crate
  def default defer del delete do double dyn elif else end enum esac except export extends extern
  false False fi final finally float fn for foreach from func function global go if impl implements
  import in int interface is lambda let local long loop match mod module move mut namespace new nil
  None nonlocal not null or override package pass private protected pub public raise ref return
  self Self select SELECT FROM WHERE JOIN INSERT UPDATE DELETE CREATE TABLE INTO VALUES ORDER GROUP BY
  AND OR NOT NULL ON AS LIMIT short signed sizeof static str string struct super switch template then
  this throw throws trait true True try type typedef typeof undefined union unsafe unsigned use using
  var virtual void volatile when where while with yield`.split(/\s+/),
);

/** Languages in which `#` begins a comment. */
const HASH = new Set(
  `python py bash sh shell zsh ruby rb perl yaml yml toml makefile make dockerfile r nix conf ini
  elixir julia`.split(/\s+/),
);
/** Languages in which `--` begins a comment. */
const DASH = new Set(["sql", "lua", "haskell", "hs", "ada", "elm"]);
/** What is shown as it is. */
const PLAIN = new Set(["", "text", "txt", "plain", "markdown", "md", "diff", "html", "xml"]);
/** Longer code is not coloured. */
const LONGEST = 60_000;

const STRING = /"(?:\\[\s\S]|[^"\\\n])*"?|'(?:\\[\s\S]|[^'\\\n])*'|`(?:\\[\s\S]|[^`\\])*`?/y;
const NUMBER = /\b(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\w*/y;
const WORD = /[A-Za-z_$][\w$]*/y;
const OTHER = /[^"'`\w$#/\-]+|[\s\S]/y;

function commentOf(language: string): RegExp {
  const slashes = "\\/\\/[^\\n]*|\\/\\*[\\s\\S]*?(?:\\*\\/|$)";
  if (HASH.has(language)) return /#[^\n]*|"""[\s\S]*?(?:"""|$)/y;
  return new RegExp(DASH.has(language) ? `--[^\\n]*|${slashes}` : slashes, "y");
}

/** Cuts code into pieces. Together they are the code. */
export function highlight(code: string, language: string): Piece[] {
  const name = language.toLowerCase();
  if (PLAIN.has(name) || code.length > LONGEST) return [{ text: code }];
  const comment = commentOf(name);
  const pieces: Piece[] = [];
  const push = (kind: Piece["kind"], text: string) => {
    const last = pieces.at(-1);
    if (last && last.kind === kind) last.text += text;
    else pieces.push({ kind, text });
  };
  for (let at = 0; at < code.length; ) {
    const take = (pattern: RegExp): string => {
      pattern.lastIndex = at;
      return pattern.exec(code)?.[0] ?? "";
    };
    let text = take(comment);
    if (text) push("comment", text);
    else if ((text = take(STRING))) push("string", text);
    else if ((text = take(NUMBER))) push("number", text);
    else if ((text = take(WORD))) push(wordKind(code, at, text), text);
    else push(undefined, (text = take(OTHER)));
    at += text.length;
  }
  return pieces;
}

function wordKind(code: string, at: number, word: string): Piece["kind"] {
  if (KEYWORDS.has(word)) return "keyword";
  return code[at + word.length] === "(" ? "call" : undefined;
}
