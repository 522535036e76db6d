/** Markdown: what is understood, and that what could do harm is not. */

import { describe, expect, test } from "vitest";
import { type Block, parse } from "../../src/markdown/blocks.ts";
import { highlight } from "../../src/markdown/highlight.ts";
import { type Inline, parseInline, safeHref } from "../../src/markdown/inline.ts";
import { INJECTED } from "../mock/answers.mjs";

/** Inline pieces in a form that is short to compare: `strong(text)`. */
function says(pieces: Inline[]): string {
  return pieces
    .map((piece) => {
      if (piece.kind === "text") return piece.text;
      if (piece.kind === "break") return "⏎";
      if (piece.kind === "code") return `code(${piece.text})`;
      if (piece.kind === "link") return `link(${says(piece.children)}→${piece.href})`;
      return `${piece.kind}(${says(piece.children)})`;
    })
    .join("");
}

function outline(blocks: Block[]): string {
  return blocks
    .map((block) => {
      if (block.kind === "paragraph") return `p(${says(block.children)})`;
      if (block.kind === "heading") return `h${block.level}(${says(block.children)})`;
      if (block.kind === "code") return `pre:${block.language}(${block.text})`;
      if (block.kind === "quote") return `quote(${outline(block.blocks)})`;
      if (block.kind === "rule") return "rule";
      if (block.kind === "table") {
        const rows = block.rows.map((row) => row.map(says).join("|"));
        return `table(${[block.head.map(says).join("|"), ...rows].join("/")})`;
      }
      const name = block.start === undefined ? "ul" : `ol${block.start}`;
      return `${name}(${block.items.map((item) => outline(item.blocks)).join("; ")})`;
    })
    .join(" ");
}

describe("inline", () => {
  test.each([
    ["plain text", "plain text"],
    ["**bold** and *em* and _em_", "strong(bold) and em(em) and em(em)"],
    ["***both***", "strong(em(both))"],
    ["**bold with *em* in it**", "strong(bold with em(em) in it)"],
    ["~~gone~~", "del(gone)"],
    ["snake_case_name and 2*3*4", "snake_case_name and 2em(3)4"],
    ["a * b * c", "a * b * c"],
    ["`a*b*` and ``a`b``", "code(a*b*) and code(a`b)"],
    ["`open", "`open"],
    ["**open", "**open"],
    ["\\*not em\\*", "*not em*"],
    ["[text](https://a.b/c(d))", "link(text→https://a.b/c(d))"],
    ["see https://a.b/c.", "see link(https://a.b/c→https://a.b/c)."],
    ["<https://a.b>", "link(https://a.b→https://a.b)"],
    ["![alt](https://a.b/x.png)", "link(alt→https://a.b/x.png)"],
    ["[x](javascript:alert(1))", "[x](javascript:alert(1))"],
    ["one  \ntwo", "one⏎two"],
    ["<b>not bold</b>", "<b>not bold</b>"],
  ])("%s", (text, expected) => {
    expect(says(parseInline(text))).toBe(expected);
  });

  test("only addresses of the web and of mail lead anywhere", () => {
    for (const bad of [
      "javascript:alert(1)",
      " JaVaScRiPt:alert(1)",
      "java\nscript:alert(1)",
      "data:text/html,x",
      "vbscript:x",
      "file:///etc/passwd",
      "//evil.example",
      "/v1/models",
      "https://",
    ]) {
      expect(safeHref(bad), bad).toBeUndefined();
    }
    expect(safeHref("https://example.org/a?b#c")).toBe("https://example.org/a?b#c");
    expect(safeHref("mailto:a@example.org")).toBe("mailto:a@example.org");
  });
});

describe("blocks", () => {
  test.each([
    ["# One\ntext", "h1(One) p(text)"],
    ["a\nb\n\nc", "p(a\nb) p(c)"],
    ["- a\n- b\n  - c\n- d", "ul(p(a); p(b) ul(p(c)); p(d))"],
    ["1. a\n2. b\n   more", "ol1(p(a); p(b\nmore))"],
    ["3) a\n\n4) b", "ol3(p(a); p(b))"],
    ["1. a\n   ```sh\n   x\n   ```\n2. b", "ol1(p(a) pre:sh(x); p(b))"],
    ["> a\n> b\nlazy\n\nc", "quote(p(a\nb\nlazy)) p(c)"],
    ["```rust\nlet a = 1;\n\n```\nb", "pre:rust(let a = 1;\n) p(b)"],
    ["```\nopen", "pre:(open)"],
    ["~~~\n```\n~~~", "pre:(```)"],
    ["a | b\n--|--\n1 | `x|y`\n2", "table(a|b/1|code(x|y)/2|)"],
    ["a | b\nno table", "p(a | b\nno table)"],
    ["---", "rule"],
    ["a\n---\nb", "p(a) rule p(b)"],
    ["2020 was\n2021. year", "p(2020 was\n2021. year)"],
    ["", ""],
  ])("%j", (text, expected) => {
    expect(outline(parse(text))).toBe(expected);
  });

  test("a list is tight unless blank lines part its items", () => {
    const tight = (text: string) => (parse(text)[0] as Extract<Block, { kind: "list" }>).tight;
    expect(tight("- a\n- b")).toBe(true);
    expect(tight("- a\n\n- b")).toBe(false);
    expect(tight("- a\n- b\n\nafter")).toBe(true);
  });

  test("boxes to tick", () => {
    const list = parse("- [x] done\n- [ ] not")[0] as Extract<Block, { kind: "list" }>;
    expect(list.items.map((item) => item.done)).toEqual([true, false]);
  });

  test("every beginning of a text can be read, as it is when it streams", () => {
    for (let end = 0; end <= INJECTED.length; end += 1) parse(INJECTED.slice(0, end));
  });

  test("no text of an answer becomes an address that runs", () => {
    const addresses: string[] = [];
    const walk = (value: unknown): void => {
      if (typeof value !== "object" || value === null) return;
      if ("href" in value) addresses.push(String(value.href));
      Object.values(value).forEach(walk);
    };
    walk(parse(INJECTED));
    expect(addresses).toEqual(["https://example.org/x.png"]);
  });

  test.each(["*", "_", "**a", "[", "`", "> ", "- ", "|-", "<", "~~x", "[a](", "1. "])(
    "a long run of %j ends soon and is bounded in depth",
    (mark) => {
      const blocks = parse(mark.repeat(5000));
      expect(JSON.stringify(blocks).length).toBeLessThan(2_000_000);
    },
  );
});

describe("highlight", () => {
  test("pieces together are the code", () => {
    const code = "fn f(a: &str) -> u32 { // 'x'\n  \"a\\\"b\".len() as u32 + 0x1F }\n/* open";
    const pieces = highlight(code, "rust");
    expect(pieces.map((piece) => piece.text).join("")).toBe(code);
    const kinds = (kind: string) =>
      pieces.filter((piece) => piece.kind === kind).map((piece) => piece.text);
    expect(kinds("keyword")).toEqual(["fn", "str", "as"]);
    expect(kinds("comment")).toEqual(["// 'x'\n".trim(), "/* open"]);
    expect(kinds("string")).toEqual(['"a\\"b"']);
    expect(kinds("number")).toEqual(["0x1F"]);
  });

  test("a hash begins a comment where it does", () => {
    expect(highlight("x = 1 # one", "python").at(-1)).toEqual({ kind: "comment", text: "# one" });
    expect(highlight("#include", "c").some((piece) => piece.kind === "comment")).toBe(false);
  });
});
