/** Markdown inside a line: emphasis, code, links. What is not understood stays text. */

/** A piece of a line. */
export type Inline =
  | { kind: "text"; text: string }
  | { kind: "code"; text: string }
  | { kind: "break" }
  | { kind: "strong" | "em" | "del"; children: Inline[] }
  | { kind: "link"; href: string; children: Inline[] };

/** How deep emphasis and links may lie in each other. */
const DEEPEST = 8;
/** How long a piece may be: a line full of marks that never close costs this much for each. */
const LONGEST = 4000;

/** The address if a link may lead there: the web and mail, nothing that runs in the page. */
export function safeHref(href: string): string | undefined {
  const given = href.trim();
  if (!/^(https?:\/\/|mailto:)/i.test(given)) return undefined;
  try {
    const { protocol } = new URL(given);
    return ["http:", "https:", "mailto:"].includes(protocol) ? given : undefined;
  } catch {
    return undefined;
  }
}

const CODE = /^(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)/;
const LINK = /^!?\[((?:\\.|[^\[\]\\])*)\]\(\s*<?((?:\([^()\s]*\)|[^()\s<>])*)>?(?:\s+"[^"]*")?\s*\)/;
const ANGLE = /^<((?:https?:\/\/|mailto:)[^\s<>]+)>/i;
const BARE = /^https?:\/\/[^\s<>]*[^\s<>.,:;!?'")\]*_~]/i;
const ESCAPE = /^\\([!-\/:-@\[-`{-~])/;
const BREAK = /^(?: {2,}|\\)\n/;
/** Characters at which something may begin; text between them is taken at once. */
const PLAIN = /^[^\\`*_~\[!<h\n ]+/;

const MARKS: [RegExp, "strong" | "em" | "del"][] = [
  [/^\*\*(\*[^\s*](?:[^*]*[^\s*])?\*)\*\*(?!\*)/, "strong"],
  [/^\*\*(?=\S)((?:[^*\\]|\\[\s\S]|\*(?!\*))*?[^\s*\\](?:\*(?!\*))?)\*\*/, "strong"],
  [/^__(?=\S)((?:[^_\\]|\\[\s\S]|_(?!_))*?[^\s\\])__(?!\w)/, "strong"],
  [/^~~(?=\S)((?:[^~\\]|\\[\s\S])*?[^\s\\])~~/, "del"],
  [/^\*(?=[^\s*])((?:[^*\\]|\\[\s\S]|\*\*[^*]*\*\*)*?[^\s\\])\*(?!\*)/, "em"],
  [/^_(?=[^\s_])((?:[^_\\]|\\[\s\S])*?[^\s\\])_(?!\w)/, "em"],
];

/** Reads the text of a line or of several. */
export function parseInline(text: string, depth = 0): Inline[] {
  const pieces: Inline[] = [];
  let plain = "";
  const flush = () => {
    if (plain) pieces.push({ kind: "text", text: plain });
    plain = "";
  };
  for (let at = 0; at < text.length; ) {
    const rest = text.slice(at, at + LONGEST);
    const before = text[at - 1] ?? " ";
    const found = piece(rest, before, depth);
    if (typeof found === "string") {
      plain += found;
      at += found.length;
    } else {
      flush();
      if (found.piece.kind === "text") plain = found.piece.text;
      else pieces.push(found.piece);
      at += found.length;
    }
  }
  flush();
  return pieces;
}

/** What `rest` begins with: text as it is, or a piece and the length it takes. */
function piece(
  rest: string,
  before: string,
  depth: number,
): string | { piece: Inline; length: number } {
  const plain = PLAIN.exec(rest);
  if (plain) return plain[0];
  let match = BREAK.exec(rest);
  if (match) return { piece: { kind: "break" }, length: match[0].length };
  match = ESCAPE.exec(rest);
  if (match) return { piece: { kind: "text", text: match[1] ?? "" }, length: match[0].length };
  match = CODE.exec(rest);
  if (match) {
    const inner = (match[2] ?? "").replace(/\n/g, " ");
    const code = /^ .*[^ ].* $/.test(inner) ? inner.slice(1, -1) : inner;
    return { piece: { kind: "code", text: code }, length: match[0].length };
  }
  if (rest[0] === "`") return /^`+/.exec(rest)?.[0] ?? "`";
  if (depth >= DEEPEST) return rest[0] ?? "";
  return link(rest, before, depth) ?? emphasis(rest, before, depth) ?? rest[0] ?? "";
}

function link(rest: string, before: string, depth: number) {
  let match = LINK.exec(rest);
  if (match) {
    const href = safeHref(match[2] ?? "");
    // A picture becomes a link too: the page loads nothing from elsewhere.
    const label = match[1] || match[2] || "";
    const children = parseInline(label, depth + 1);
    // A link to elsewhere than the web stays as it was written.
    if (!href) return match[0];
    return { piece: { kind: "link", href, children } as Inline, length: match[0].length };
  }
  match = ANGLE.exec(rest) ?? (/\w/.test(before) ? null : BARE.exec(rest));
  const href = match && safeHref(match[1] ?? match[0]);
  if (!match || !href) return undefined;
  const children: Inline[] = [{ kind: "text", text: match[1] ?? match[0] }];
  return { piece: { kind: "link", href, children } as Inline, length: match[0].length };
}

function emphasis(rest: string, before: string, depth: number) {
  for (const [pattern, kind] of MARKS) {
    if (rest[0] === "_" && /\w/.test(before)) continue;
    const match = pattern.exec(rest);
    if (match) {
      const children = parseInline(match[1] ?? "", depth + 1);
      return { piece: { kind, children } as Inline, length: match[0].length };
    }
  }
  return undefined;
}
