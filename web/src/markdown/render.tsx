/** Markdown as elements. Text only ever becomes text nodes, so markup in it is inert. */

import { type ComponentChildren, type VNode, h } from "preact";
import { useMemo, useState } from "preact/hooks";
import { type Block, parse } from "./blocks.ts";
import { highlight } from "./highlight.ts";
import type { Inline } from "./inline.ts";

/** A text's markdown. */
export function Markdown({ text }: { text: string }) {
  const blocks = useMemo(() => parse(text), [text]);
  return <div class="markdown">{blocks.map((block, at) => blockOf(block, at))}</div>;
}

function blockOf(block: Block, key: number): VNode {
  switch (block.kind) {
    case "paragraph":
      return <p key={key}>{inlines(block.children)}</p>;
    case "heading":
      return h(`h${block.level}`, { key }, inlines(block.children));
    case "code":
      return <Code key={key} language={block.language} text={block.text} />;
    case "quote":
      return <blockquote key={key}>{block.blocks.map(blockOf)}</blockquote>;
    case "rule":
      return <hr key={key} />;
    case "list":
      return listOf(block, key);
    case "table":
      return tableOf(block, key);
  }
}

function listOf(list: Extract<Block, { kind: "list" }>, key: number): VNode {
  const items = list.items.map((item, at) => {
    const blocks = item.blocks.map((block, index) =>
      list.tight && block.kind === "paragraph" ? inlines(block.children) : blockOf(block, index),
    );
    if (item.done === undefined) return <li key={at}>{blocks}</li>;
    return (
      <li key={at} class="task">
        <input type="checkbox" checked={item.done} disabled /> {blocks}
      </li>
    );
  });
  if (list.start === undefined) return <ul key={key}>{items}</ul>;
  return (
    <ol key={key} start={list.start}>
      {items}
    </ol>
  );
}

function tableOf(table: Extract<Block, { kind: "table" }>, key: number): VNode {
  const cell = (tag: "th" | "td") => (children: Inline[], column: number) =>
    h(tag, { key: column, class: table.align[column] }, inlines(children));
  return (
    <div key={key} class="table">
      <table>
        <thead>
          <tr>{table.head.map(cell("th"))}</tr>
        </thead>
        <tbody>
          {table.rows.map((row, at) => (
            <tr key={at}>{row.map(cell("td"))}</tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function inlines(pieces: Inline[]): ComponentChildren[] {
  return pieces.map((piece, key) => {
    switch (piece.kind) {
      case "text":
        return piece.text;
      case "code":
        return <code key={key}>{piece.text}</code>;
      case "break":
        return <br key={key} />;
      case "link":
        return (
          <a key={key} href={piece.href} target="_blank" rel="noopener noreferrer nofollow">
            {inlines(piece.children)}
          </a>
        );
      default:
        return h(piece.kind, { key }, inlines(piece.children));
    }
  });
}

/** Code with its language, and a button that copies it. */
export function Code({ language, text }: { language: string; text: string }) {
  const pieces = useMemo(() => highlight(text, language), [text, language]);
  return (
    <figure class="code">
      <figcaption>
        <span>{language || "text"}</span>
        <Copy text={text} />
      </figcaption>
      <pre tabIndex={0}>
        <code>
          {pieces.map((piece, key) =>
            piece.kind ? (
              <span key={key} class={`code-${piece.kind}`}>
                {piece.text}
              </span>
            ) : (
              piece.text
            ),
          )}
        </code>
      </pre>
    </figure>
  );
}

/** A button that copies a text. */
export function Copy({ text, title = "Copy" }: { text: string; title?: string }) {
  const [said, say] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      say("Copied");
    } catch {
      // Without HTTPS, browsers give the clipboard on the machine itself only.
      say("Not allowed");
    }
    setTimeout(() => say(""), 1500);
  };
  return (
    <button type="button" class="quiet copy" onClick={copy} aria-live="polite">
      {said || title}
    </button>
  );
}
