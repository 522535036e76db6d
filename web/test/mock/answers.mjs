/** What the stand-in server says: the last question's first word chooses. */

/** Markup that would do harm if a page took it for markup. */
export const INJECTED = `Before <script>window.harmed = 1</script> and
<img src=x onerror="window.harmed = 2"> and [a link](javascript:window.harmed=3) and
![a picture](https://example.org/x.png) and <a href="javascript:window.harmed=4">another</a>.

\`\`\`html"><img src=x onerror=window.harmed=5>
<script>window.harmed = 6</script>
\`\`\`

| a <b>bold</b> | <iframe srcdoc="<script>parent.harmed=7</script>"></iframe> |
|---|---|
| <svg onload="window.harmed=8"> | [x](data:text/html,<script>window.harmed=9</script>) |

After.`;

const MARKDOWN = `## Mixture of experts

A **router** picks a few *experts* for each token, so that most weights rest:

1. The router scores all experts.
2. The best \`k\` compute, the others do not.
   - their outputs are added, weighted by the scores
   - a shared expert always computes
3. The next layer does the same.

\`\`\`rust
/// Picks the experts of one token.
fn route(scores: &[f32], k: usize) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..scores.len()).collect();
    ids.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    ids.truncate(k); // the k best
    ids
}
\`\`\`

| model | experts | a token |
|:--|--:|--:|
| demo | 32 | 4 |
| 35B-A3B | 256 | 8 |

> Most of the model is on storage, and what a token needs is read in time.

More at [the paper](https://arxiv.org/abs/1701.06538).`;

/** Cuts a text into deltas, a word each. */
function words(text, field = "content") {
  return (text.match(/\s*\S+|\s+$/g) ?? []).map((word) => ({ [field]: word }));
}

function toolCall(index, name, json) {
  const start = { index, id: `call_${name}`, type: "function", function: { name, arguments: "" } };
  const pieces = json.match(/[\s\S]{1,7}/g) ?? [];
  const rest = pieces.map((piece) => ({
    tool_calls: [{ index, function: { arguments: piece } }],
  }));
  return [{ tool_calls: [start] }, ...rest];
}

/** The answer to a request: deltas, or a refusal. `count` is the number of requests so far. */
export function answerTo(request, count) {
  const last = request.messages.at(-1);
  if (last.role === "tool") return { deltas: words(`The tool said: ${last.content}`) };
  const about = last.content.includes("mixture of experts");
  const first = about ? "markdown" : last.content.trim().split(/\s/, 1)[0];
  switch (first) {
    case "markdown":
      return { deltas: words(MARKDOWN) };
    case "inject":
      return { deltas: words(INJECTED) };
    case "long":
      return { deltas: words("and so it goes on ".repeat(400)) };
    case "think": {
      const thought = "First I look at the question, then I answer it.";
      return { deltas: [...words(thought, "reasoning_content"), ...words("Thought about it.")] };
    }
    case "tool": {
      const weather = toolCall(0, "get_weather", '{"city": "Paris", "unit": "C"}');
      const time = toolCall(1, "get_time", '{"zone": "Europe/Paris"}');
      return { deltas: [...weather, ...time], finish: "tool_calls" };
    }
    case "fail":
      return { status: 400, message: "the prompt is too long; send <b>less</b>" };
    case "break":
      return { deltas: words("This breaks off in the"), breaks: true };
    default:
      return { deltas: words(`Answer ${count} to “${last.content}” with some words behind it.`) };
  }
}
