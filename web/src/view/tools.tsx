/** Calls of tools: what the model asks for, and the results that the user gives. */

import { useState } from "preact/hooks";
import type { Message, ToolCall } from "../chat/conversation.ts";
import { Code } from "../markdown/render.tsx";
import { giveResults, open } from "../state.ts";
import { Icon } from "./icons.tsx";

/** JSON with line breaks, if it is JSON; an answer that is still coming has only some of it. */
export function pretty(json: string): string {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

/** The calls of an answer; `open`: results can be given. */
export function Calls({ message, open: last }: { message: Message; open: boolean }) {
  const calls = message.calls ?? [];
  const [results, setResults] = useState<Record<number, string>>({});
  const send = () =>
    giveResults(calls.map((call, at) => ({ call: call.id, text: results[at] ?? "" })));
  const given = (call: ToolCall) =>
    Object.values(open.value.messages).find(
      (other) => other.role === "tool" && other.call === call.id && isBelow(other, message),
    );
  return (
    <form
      class="calls"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      {calls.map((call, at) => {
        const result = given(call);
        return (
          <section key={call.id} class="call">
            <h4>
              <Icon name="tool" /> {call.function.name || "…"}
            </h4>
            <Code language="json" text={pretty(call.function.arguments)} />
            {result && <Code language="result" text={result.text} />}
            {!result && last && (
              <textarea
                rows={2}
                placeholder="Result of this call"
                aria-label={`Result of ${call.function.name}`}
                value={results[at] ?? ""}
                onInput={(event) => setResults({ ...results, [at]: event.currentTarget.value })}
              />
            )}
          </section>
        );
      })}
      {last && (
        <button type="submit" class="primary">
          Send {calls.length > 1 ? "results" : "result"}
        </button>
      )}
    </form>
  );
}

function isBelow(message: Message, above: Message): boolean {
  for (let at: Message | undefined = message; at; at = open.value.messages[at.parent ?? ""]) {
    if (at.id === above.id) return true;
    if (at !== message && at.role !== "tool") return false;
  }
  return false;
}
