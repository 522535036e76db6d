/** The map of experts: a row for each layer, a cell for each expert, drawn on a canvas. */

import type { Meters } from "./meters.ts";

/** How long a cell glows after its expert was used, in milliseconds. */
export const GLOW_MS = 1000;
/** Width of the layers' numbers, room above the first, height limits of a row; in CSS pixels. */
const LABEL = 26;
const TOP = 4;
const ROW = { least: 5, most: 18 } as const;

/** Where things lie, in CSS pixels. */
export interface Layout {
  width: number;
  height: number;
  cell: number;
  row: number;
}

/** The layout for a width. */
export function layoutOf(meters: Meters, width: number): Layout {
  const experts = Math.max(1, ...meters.layers.map((layer) => layer.states.length));
  const cell = (width - LABEL) / experts;
  const row = Math.min(ROW.most, Math.max(ROW.least, cell * 1.2));
  return { width, height: TOP + Math.ceil(row * meters.layers.length), cell, row };
}

/** The layer's position and the expert at a point; `undefined` where there is none. */
export function expertAt(meters: Meters, layout: Layout, x: number, y: number) {
  const position = Math.floor((y - TOP) / layout.row);
  const expert = Math.floor((x - LABEL) / layout.cell);
  const layer = meters.layers[position];
  return layer && expert >= 0 && expert < layer.states.length ? { layer, expert } : undefined;
}

/** The page's colours for states, in the order of their characters, and for the rest. */
export function coloursOf(element: Element): { states: string[]; glow: string; label: string } {
  const style = getComputedStyle(element);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const states = ["--absent", "--reading", "--guess", "--resident", "--resident"].map(colour);
  return { states, glow: colour("--used"), label: colour("--faint") };
}

/** Draws all cells. Returns whether some of them still glow, so that it is to be drawn again. */
export function draw(canvas: HTMLCanvasElement, meters: Meters, layout: Layout, clock: number) {
  const context = canvas.getContext("2d");
  if (!context) return false;
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(layout.width * scale), Math.round(layout.height * scale)];
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  context.clearRect(0, 0, width, height);
  const { states, glow, label } = coloursOf(canvas);
  const every = Math.ceil(13 / layout.row);
  const gap = layout.cell * scale >= 4 ? Math.max(1, Math.round(scale)) : 0;
  const glowing: [x: number, y: number, width: number, height: number, share: number][] = [];
  context.font = `${10 * scale}px ui-monospace, monospace`;
  context.textBaseline = "middle";
  meters.layers.forEach(({ layer, states: row, used }, position) => {
    const top = Math.round((TOP + position * layout.row) * scale);
    const tall = Math.round((TOP + (position + 1) * layout.row) * scale) - top - Math.max(1, gap);
    if (position % every === 0) {
      context.fillStyle = label;
      context.fillText(String(layer), 0, top + tall / 2 + scale / 2);
    }
    for (let expert = 0; expert < row.length; expert += 1) {
      const left = Math.round((LABEL + expert * layout.cell) * scale);
      const right = Math.round((LABEL + (expert + 1) * layout.cell) * scale);
      const wide = Math.max(1, right - left - gap);
      context.fillStyle = states[row[expert] ?? 0] ?? "";
      context.fillRect(left, top, wide, tall);
      const age = used[expert] ? clock - (used[expert] ?? 0) : GLOW_MS;
      if (age < GLOW_MS) glowing.push([left, top, wide, tall, 1 - age / GLOW_MS]);
    }
  });
  context.fillStyle = glow;
  for (const [x, y, w, h, share] of glowing) {
    context.globalAlpha = share;
    context.fillRect(x, y, w, h);
  }
  context.globalAlpha = 1;
  return glowing.length > 0;
}
