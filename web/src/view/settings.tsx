/** Parameters of requests, the system prompt, tools, the key, and how the page looks. */

import { useEffect, useRef } from "preact/hooks";
import { askModels, locked, model, models, set, settings } from "../state.ts";
import { DEFAULTS, type Settings } from "../storage.ts";
import { Icon } from "./icons.tsx";
import { configuring } from "./layout.ts";

const PARAMETERS: [keyof Settings, string, string][] = [
  ["temperature", "Temperature", "0 takes the most likely token"],
  ["max_tokens", "Longest answer", "tokens"],
  ["top_p", "Top p", "0 to 1"],
  ["top_k", "Top k", "0: all"],
  ["min_p", "Min p", "0 to 1"],
  ["seed", "Seed", "the same seed, the same answer"],
  ["repetition_penalty", "Repetition penalty", "1: none"],
  ["presence_penalty", "Presence penalty", "-2 to 2"],
  ["frequency_penalty", "Frequency penalty", "-2 to 2"],
];

const KEYS: [string, string][] = [
  ["Enter", "send"],
  ["Shift+Enter", "new line"],
  ["Esc", "stop"],
  ["↑", "edit the last question"],
  ["Alt+N", "new chat"],
  ["Alt+R", "ask again"],
  ["Alt+L", "live view"],
  ["Alt+S", "settings"],
  ["/", "to the message field"],
];

const TOOLS_EXAMPLE = `[{"name": "get_weather", "parameters": {
  "type": "object", "properties": {"city": {"type": "string"}}}}]`;

/** The dialog. */
export function SettingsDialog() {
  const dialog = useRef<HTMLDialogElement>(null);
  const shown = configuring.value;
  useEffect(() => {
    if (shown) dialog.current?.showModal();
    else dialog.current?.close();
  }, [shown]);
  return (
    <dialog
      ref={dialog}
      class="settings"
      aria-label="Settings"
      onClose={() => (configuring.value = false)}
      onClick={(event) => event.target === event.currentTarget && event.currentTarget.close()}
    >
      {shown && <Fields />}
    </dialog>
  );
}

function Fields() {
  const now = settings.value;
  return (
    <form method="dialog">
      <header>
        <h2>Settings</h2>
        <button type="submit" class="quiet" title="Close (Esc)">
          <Icon name="close" />
        </button>
      </header>
      <Server />
      <label>
        System prompt
        <Area name="system" rows={4} placeholder="What the model should be and do" />
      </label>
      <fieldset>
        <legend>Parameters</legend>
        <p class="hint">What is empty is the model's own suggestion.</p>
        <div class="grid">
          {PARAMETERS.map(([name, label, hint]) => (
            <label key={name}>
              {label}
              <Line name={name} placeholder={hint} numeric />
            </label>
          ))}
          <label>
            Reasoning
            <Choice name="reasoning_effort" values={["", "none", "low", "medium", "high"]} />
          </label>
        </div>
        <label>
          Stop at (one a line)
          <Area name="stop" rows={2} />
        </label>
      </fieldset>
      <label>
        Tools that the model may call (JSON)
        <Area name="tools" rows={4} placeholder={TOOLS_EXAMPLE} code />
      </label>
      <label>
        Colours
        <Choice name="theme" values={["", "light", "dark"]} empty="as the system" />
      </label>
      <Shortcuts />
      <footer>
        <button type="button" onClick={() => set({ ...DEFAULTS, key: now.key, live: now.live })}>
          Reset
        </button>
        <button type="submit" class="primary">
          Done
        </button>
      </footer>
    </form>
  );
}

function Server() {
  return (
    <>
      {models.value.length > 1 && (
        <label>
          Model
          <select
            value={model.value}
            onChange={(event) => set({ model: event.currentTarget.value })}
          >
            {models.value.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
      )}
      {(locked.value || settings.value.key) && (
        <label>
          API key
          <input
            type="password"
            autocomplete="off"
            value={settings.value.key}
            placeholder="the key that the server was started with"
            onChange={(event) => {
              set({ key: event.currentTarget.value.trim() });
              void askModels();
            }}
          />
        </label>
      )}
    </>
  );
}

function Shortcuts() {
  return (
    <details>
      <summary>Keys</summary>
      <dl class="keys">
        {KEYS.map(([key, what]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
    </details>
  );
}

function Line(props: { name: keyof Settings; placeholder: string; numeric?: boolean }) {
  const value = String(settings.value[props.name]);
  const wrong = props.numeric && value.trim() !== "" && !Number.isFinite(Number(value));
  return (
    <input
      type="text"
      inputMode={props.numeric ? "decimal" : "text"}
      value={value}
      placeholder={props.placeholder}
      aria-invalid={wrong ? "true" : undefined}
      onInput={(event) => set({ [props.name]: event.currentTarget.value })}
    />
  );
}

function Area(props: {
  name: keyof Settings;
  rows: number;
  placeholder?: string;
  code?: boolean;
}) {
  return (
    <textarea
      class={props.code ? "mono" : ""}
      rows={props.rows}
      value={String(settings.value[props.name])}
      placeholder={props.placeholder}
      spellcheck={!props.code}
      onInput={(event) => set({ [props.name]: event.currentTarget.value })}
    />
  );
}

function Choice(props: { name: keyof Settings; values: string[]; empty?: string }) {
  return (
    <select
      value={String(settings.value[props.name])}
      onChange={(event) => set({ [props.name]: event.currentTarget.value })}
    >
      {props.values.map((value) => (
        <option key={value} value={value}>
          {value || (props.empty ?? "as the model suggests")}
        </option>
      ))}
    </select>
  );
}
