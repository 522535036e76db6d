/** The live view: the machine at work. */

import { useEffect, useRef, useState } from "preact/hooks";
import { STATES } from "../live.ts";
import { settings } from "../state.ts";
import { Icon } from "../view/icons.tsx";
import { isSmall, sheet, toggleLive, wide } from "../view/layout.ts";
import { beat, disconnected, follow, meters } from "./client.ts";
import { draw, expertAt, layoutOf } from "./map.ts";
import { type Meters, POINTS, type Rates, bytes, short } from "./meters.ts";

/** Whether somebody can see the page. */
function useVisible(): boolean {
  const [visible, setVisible] = useState(!document.hidden);
  useEffect(() => {
    const change = () => setVisible(!document.hidden);
    document.addEventListener("visibilitychange", change);
    return () => document.removeEventListener("visibilitychange", change);
  }, []);
  return visible;
}

/** The whole view; it listens to the server as long as it is there and can be seen. */
export function Live() {
  const visible = useVisible();
  const { key } = settings.value;
  useEffect(() => {
    if (!visible) return undefined;
    const control = new AbortController();
    void follow(key, control.signal);
    return () => control.abort();
  }, [visible, key]);
  const known = meters.value;
  return (
    <aside class="live" aria-label="Live view">
      <header>
        <h2>
          <i class={disconnected.value || !known ? "dot off" : "dot"} /> Machine
        </h2>
        <button
          type="button"
          class="quiet not-small"
          title={wide.value ? "Narrow" : "Wide"}
          onClick={() => (wide.value = !wide.value)}
        >
          <Icon name="wide" />
        </button>
        <button
          type="button"
          class="quiet"
          title="Close (Alt+L)"
          onClick={() => (isSmall() ? (sheet.value = "") : toggleLive())}
        >
          <Icon name="close" />
        </button>
      </header>
      {disconnected.value && <p class="note">{disconnected.value}</p>}
      {known && <Body known={known} count={beat.value} />}
    </aside>
  );
}

/** `count` makes it drawn again at each event. */
function Body({ known, count }: { known: Meters; count: number }) {
  const { machine, now } = known;
  const experts = machine.layers.reduce((sum, layer) => sum + layer.experts, 0);
  return (
    <>
      <p class="machine">
        <strong>{machine.model}</strong>
        <span>
          {machine.layers.length} layers · {experts} experts, {machine.experts_per_token} a token ·{" "}
          {machine.threads} threads · {machine.reader}
        </span>
      </p>
      <Tiles known={known} />
      <Memory known={known} experts={experts} />
      <ExpertMap known={known} count={count} />
      {now && <Queue known={known} />}
    </>
  );
}

function Tiles({ known: { rates, history, now } }: { known: Meters }) {
  const percent = (share: number | undefined) =>
    share === undefined ? "–" : `${(share * 100).toFixed(share > 0.9995 ? 0 : 1)} %`;
  const counted = (now?.total.memory_bytes ?? 0) > 0;
  const tiles: [string, string, (rates: Rates) => number, number?][] = [
    ["Answer tokens/s", short(rates.answer), (r) => r.answer],
    ["Prompt tokens/s", short(rates.prompt), (r) => r.prompt],
    ["Expert hit rate", percent(rates.hit), (r) => r.hit ?? 0, 1],
    ["Waiting for storage", percent(rates.wait), (r) => r.wait, 1],
    ["Read from storage", `${bytes(rates.read)}/s`, (r) => r.read],
    ["Read in memory", counted ? `${bytes(rates.memory)}/s` : "–", (r) => r.memory],
  ];
  return (
    <dl class="tiles">
      {tiles.map(([name, value, of, most]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
          <Spark points={history.map(of)} most={most} />
        </div>
      ))}
    </dl>
  );
}

/** A small chart of the past; `most`: the value at its top. */
function Spark({ points, most }: { points: number[]; most?: number }) {
  const top = most ?? Math.max(1e-9, ...points);
  const [width, height] = [POINTS, 24];
  const at = (value: number, index: number) =>
    `${POINTS - points.length + index},${(height - 1 - (value / top) * (height - 2)).toFixed(1)}`;
  const line = points.map(at).join(" ");
  const first = POINTS - points.length;
  return (
    <svg class="spark" viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true">
      <polygon points={`${first},${height} ${line} ${width - 1},${height}`} />
      <polyline points={line} />
    </svg>
  );
}

function Memory({ known: { machine, now }, experts }: { known: Meters; experts: number }) {
  if (!now) return null;
  const share = now.slots ? now.resident / now.slots : 0;
  return (
    <section class="memory">
      <h3>
        Experts in memory
        <span>
          {now.resident} of {experts} · {bytes(now.resident * machine.slot_bytes)}
        </span>
      </h3>
      <div class="bar" title={`${now.slots} slots of ${bytes(machine.slot_bytes)}`}>
        <div class="filled" style={{ width: `${share * 100 * Math.min(1, now.slots / experts)}%` }} />
        <div class="room" style={{ width: `${Math.min(1, now.slots / experts) * 100}%` }} />
      </div>
    </section>
  );
}

const NAMES = ["not in memory", "being read", "read ahead, by a guess", "in memory", "in memory"];
const LEGEND: [string, string][] = [
  ["absent", "on storage"],
  ["reading", "being read"],
  ["guess", "read ahead"],
  ["resident", "in memory"],
  ["used", "in use"],
];

function ExpertMap({ known, count }: { known: Meters; count: number }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(0);
  const [pointed, setPointed] = useState("");
  const theme = settings.value.theme;
  useEffect(() => {
    const box = canvas.current?.parentElement;
    if (!box) return undefined;
    const observer = new ResizeObserver(() => setWidth(box.clientWidth));
    observer.observe(box);
    return () => observer.disconnect();
  }, []);
  const layout = layoutOf(known, Math.max(width, 60));
  useEffect(() => {
    let frame = 0;
    const paint = () => {
      const element = canvas.current;
      const again = element && draw(element, known, layout, performance.now());
      if (again) frame = requestAnimationFrame(paint);
    };
    frame = requestAnimationFrame(paint);
    return () => cancelAnimationFrame(frame);
  }, [known, width, count, theme]);
  const point = (event: PointerEvent) => {
    const found = expertAt(known, layout, event.offsetX, event.offsetY);
    const state = found && NAMES[found.layer.states[found.expert] ?? 0];
    setPointed(found ? `Layer ${found.layer.layer}, expert ${found.expert}: ${state}` : "");
  };
  return (
    <section class="map">
      <h3>
        Experts by layer <span>{pointed}</span>
      </h3>
      <div>
        <canvas
          ref={canvas}
          role="img"
          aria-label="Which experts of each layer are in memory and in use"
          style={{ width: `${layout.width}px`, height: `${layout.height}px` }}
          onPointerMove={point}
          onPointerLeave={() => setPointed("")}
        />
      </div>
      <Legend known={known} />
    </section>
  );
}

function Legend({ known }: { known: Meters }) {
  const counts = new Array<number>(STATES.length).fill(0);
  for (const { states } of known.layers) {
    for (const state of states) counts[state] = (counts[state] ?? 0) + 1;
  }
  return (
    <ul class="legend">
      {LEGEND.map(([name, what], at) => (
        <li key={name}>
          <i class={name} /> {what} <b>{counts[at]}</b>
        </li>
      ))}
    </ul>
  );
}

function Queue({ known: { machine, now } }: { known: Meters }) {
  if (!now) return null;
  const { requests, request_count } = now;
  const more = request_count - requests.length;
  return (
    <section class="queue">
      <h3>
        Requests <span>{request_count ? `${request_count} (at most ${machine.parallel} at a time)` : "none"}</span>
      </h3>
      <ol>
        {requests.slice(0, 12).map((request, at) => {
          const share = request.prompt_tokens ? request.prompt_done / request.prompt_tokens : 0;
          const says = {
            waiting: `waiting · ${request.prompt_tokens} tokens`,
            prompt: `prompt ${request.prompt_done} of ${request.prompt_tokens}`,
            answer: `answer · ${request.answer_tokens} tokens`,
          }[request.phase];
          return (
            <li key={at} class={request.phase}>
              <div class="bar">
                <div class="filled" style={{ width: `${share * 100}%` }} />
              </div>
              <span>{says}</span>
            </li>
          );
        })}
      </ol>
      {(requests.length > 12 || more > 0) && (
        <p class="note">and {request_count - Math.min(12, requests.length)} more</p>
      )}
    </section>
  );
}
