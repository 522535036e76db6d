/** Markdown's blocks: paragraphs, headings, code, lists, quotes, tables. */

import { type Inline, parseInline } from "./inline.ts";

/** How a table's column lies. */
export type Align = "left" | "center" | "right" | undefined;

/** An item of a list; `done` is there if it is a box to tick. */
export interface Item {
  done?: boolean;
  blocks: Block[];
}

/** A block. */
export type Block =
  | { kind: "paragraph"; children: Inline[] }
  | { kind: "heading"; level: number; children: Inline[] }
  | { kind: "code"; language: string; text: string; open: boolean }
  | { kind: "list"; start?: number; tight: boolean; items: Item[] }
  | { kind: "quote"; blocks: Block[] }
  | { kind: "table"; align: Align[]; head: Inline[][]; rows: Inline[][][] }
  | { kind: "rule" };

/** How deep lists and quotes may lie in each other. */
const DEEPEST = 12;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:( {1,4})(?=\S)|\s*$| +)/;
const DELIMITER = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

/** Reads a text, which may end anywhere: code that is not closed is open to its end. */
export function parse(text: string): Block[] {
  return parseLines(text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n"), 0);
}

function parseLines(lines: string[], depth: number): Block[] {
  const blocks: Block[] = [];
  for (let at = 0; at < lines.length; ) {
    const line = lines[at] ?? "";
    if (!line.trim()) {
      at += 1;
      continue;
    }
    const [block, next] =
      fence(lines, at) ??
      heading(line, at) ??
      rule(line, at) ??
      (depth < DEEPEST ? (quote(lines, at, depth) ?? list(lines, at, depth)) : undefined) ??
      table(lines, at) ??
      paragraph(lines, at);
    blocks.push(block);
    at = next;
  }
  return blocks;
}

/** A block and the line behind it. */
type Found = [Block, number] | undefined;

function fence(lines: string[], at: number): Found {
  const match = FENCE.exec(lines[at] ?? "");
  if (!match) return undefined;
  const mark = match[1] ?? "";
  const indent = (lines[at] ?? "").search(/\S/);
  const language = (match[2] ?? "").trim().split(/\s/)[0] ?? "";
  const close = new RegExp(`^ {0,3}\\${mark[0]}{${mark.length},}\\s*$`);
  const body: string[] = [];
  let next = at + 1;
  for (; next < lines.length; next += 1) {
    const line = lines[next] ?? "";
    if (close.test(line)) break;
    body.push(line.replace(new RegExp(`^ {0,${indent}}`), ""));
  }
  const open = next >= lines.length;
  return [{ kind: "code", language, text: body.join("\n"), open }, next + 1];
}

function heading(line: string, at: number): Found {
  const match = HEADING.exec(line);
  if (!match) return undefined;
  const level = match[1]?.length ?? 1;
  return [{ kind: "heading", level, children: parseInline(match[2] ?? "") }, at + 1];
}

function rule(line: string, at: number): Found {
  return RULE.test(line) ? [{ kind: "rule" }, at + 1] : undefined;
}

function quote(lines: string[], at: number, depth: number): Found {
  if (!QUOTE.test(lines[at] ?? "")) return undefined;
  const inner: string[] = [];
  let next = at;
  for (; next < lines.length; next += 1) {
    const line = lines[next] ?? "";
    if (QUOTE.test(line)) inner.push(line.replace(QUOTE, ""));
    else if (line.trim() && inner.at(-1)?.trim() && !begins(line)) inner.push(line);
    else break;
  }
  return [{ kind: "quote", blocks: parseLines(inner, depth + 1) }, next];
}

/** Whether a line begins a block of its own, so that a paragraph before it ends. */
function begins(line: string): boolean {
  return (
    FENCE.test(line) ||
    HEADING.test(line) ||
    RULE.test(line) ||
    QUOTE.test(line) ||
    /^ {0,3}(?:[-*+]|1[.)]) +\S/.test(line)
  );
}

function list(lines: string[], at: number, depth: number): Found {
  const first = ITEM.exec(lines[at] ?? "");
  if (!first) return undefined;
  const mark = (first[2] ?? "").slice(-1);
  const start = /\d/.test(first[2] ?? "") ? Number.parseInt(first[2] ?? "1", 10) : undefined;
  const items: Item[] = [];
  let tight = true;
  let next = at;
  for (;;) {
    const match = ITEM.exec(lines[next] ?? "");
    const line = lines[next] ?? "";
    if (!match || (match[2] ?? "").slice(-1) !== mark || RULE.test(line)) break;
    const indent = (match[1]?.length ?? 0) + (match[2]?.length ?? 0) + (match[3]?.length ?? 1);
    const body = [line.slice(indent)];
    next += 1;
    next = itemEnd(lines, next, indent, body);
    const blank = blankTail(body);
    const more = ITEM.exec(lines[next] ?? "");
    tight &&= !(blank && more) && !loose(body);
    items.push(item(body, depth));
  }
  return [{ kind: "list", start, tight, items }, next];
}

/** Collects the lines of an item into `body`, those that are indented or go on with its text. */
function itemEnd(lines: string[], at: number, indent: number, body: string[]): number {
  let next = at;
  for (; next < lines.length; next += 1) {
    const line = lines[next] ?? "";
    const spaces = line.search(/\S/);
    if (spaces < 0) {
      // A blank line belongs to the list only if the list goes on behind it.
      const behind = lines.slice(next).find((line) => line.trim());
      if (behind === undefined) break;
      if (behind.search(/\S/) < Math.min(indent, 2) && !ITEM.test(behind)) break;
      body.push("");
    } else if (spaces >= Math.min(indent, 2) || (spaces > 0 && !ITEM.test(line))) {
      body.push(line.slice(Math.min(spaces, indent)));
    } else if (ITEM.test(line) || begins(line) || !body.at(-1)?.trim()) {
      break;
    } else {
      body.push(line);
    }
  }
  return next;
}

/** Takes blank lines off the end; whether there were any. */
function blankTail(body: string[]): boolean {
  const before = body.length;
  while (body.length > 1 && !body.at(-1)?.trim()) body.pop();
  return body.length < before;
}

/** Whether blank lines part the blocks of an item. */
function loose(body: string[]): boolean {
  return body.some((line, at) => !line.trim() && at > 0 && at < body.length - 1);
}

function item(body: string[], depth: number): Item {
  const box = /^\[([ xX])\] +/.exec(body[0] ?? "");
  if (!box) return { blocks: parseLines(body, depth + 1) };
  body[0] = (body[0] ?? "").slice(box[0].length);
  return { done: box[1] !== " ", blocks: parseLines(body, depth + 1) };
}

function table(lines: string[], at: number): Found {
  const under = lines[at + 1] ?? "";
  if (!lines[at]?.includes("|") || !under.includes("-") || !DELIMITER.test(under)) return undefined;
  const head = cells(lines[at] ?? "");
  const marks = cells(under);
  if (marks.length !== head.length) return undefined;
  const align = marks.map((mark): Align => {
    const [left, right] = [mark.startsWith(":"), mark.endsWith(":")];
    return left && right ? "center" : right ? "right" : left ? "left" : undefined;
  });
  const rows: Inline[][][] = [];
  let next = at + 2;
  for (; next < lines.length; next += 1) {
    const line = lines[next] ?? "";
    if (!line.trim() || begins(line)) break;
    const row = cells(line);
    rows.push(head.map((_, column) => parseInline(row[column] ?? "")));
  }
  const parsed = head.map((cell) => parseInline(cell));
  return [{ kind: "table", align, head: parsed, rows }, next];
}

/** The cells of a table's line; `\|` and bars in code do not part them. */
function cells(line: string): string[] {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  const found = [""];
  for (const piece of inner.match(/`[^`]*`|\\\||\||[^`|\\]+|[\s\S]/g) ?? []) {
    if (piece === "|") found.push("");
    else found[found.length - 1] += piece === "\\|" ? "|" : piece;
  }
  return found.map((cell) => cell.trim());
}

function paragraph(lines: string[], at: number): [Block, number] {
  let next = at + 1;
  while (next < lines.length && lines[next]?.trim() && !begins(lines[next] ?? "")) next += 1;
  const text = lines.slice(at, next).map((line) => line.replace(/^ +/, ""));
  // Spaces at the end of the last line break nothing.
  return [{ kind: "paragraph", children: parseInline(text.join("\n").trimEnd()) }, next];
}
