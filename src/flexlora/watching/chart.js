// Lines over rounds, as SVG, in the report's colours; read with the pointer or by arrow keys.

import { el, folded, put, table, whole } from "/files/words.js";

const HEIGHT = 230;
const MOST = 250; // Points of a line: a screen has no more columns.
const NS = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, text = "") {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function ticks(low, high, wanted) {
  const raw = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((x) => x * power >= raw);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-6; i++) found.push(i * step);
  return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function thinned(points) {
  const step = Math.ceil(points.length / MOST);
  return step < 2 ? points : points.filter((_, i) => i % step === 0 || i === points.length - 1);
}

// draw({ series: [{ name, colour, points: [[round, value]], ring }], rounds }) as often as you like.
export class Chart {
  constructor(title, reading, axis, digits) {
    Object.assign(this, { axis, digits, series: [], rounds: 1, cursor: null, drawn: "" });
    this.svg = svg("svg", { role: "application", "aria-roledescription": "chart", tabindex: "0", height: HEIGHT });
    this.said = el("p", { class: "readout", role: "status" });
    this.keys = el("ul", { class: "keys" });
    this.numbers = folded("Numbers", () => this.table());
    const heading = el("h3", {}, title);
    const plot = el("div", { class: "plot" }, this.svg);
    this.title = title;
    this.node = el("figure", { "aria-label": title }, heading, el("figcaption", {}, reading), this.keys, plot, this.said, this.numbers.node);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.read(null));
    this.svg.addEventListener("blur", () => this.read(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.paint()).observe(plot);
    this.plot = plot;
  }

  draw({ series, rounds }) {
    this.series = series;
    this.rounds = rounds;
    this.all = [...new Set(series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
    this.paint();
    this.numbers.refresh();
  }

  paint() {
    const width = Math.floor(this.plot.clientWidth);
    if (!width || !this.series.length) return;
    let [low, high] = [Infinity, -Infinity]; // Of more values than a call has arguments.
    for (const { points } of this.series) for (const [, y] of points) [low, high] = [Math.min(low, y), Math.max(high, y)];
    if (low === high) [low, high] = [low - (Math.abs(low) / 20 || 1), high + (Math.abs(high) / 20 || 1)];
    const margin = (high - low) * 0.06;
    [low, high] = [low - margin, high + margin];
    const up = ticks(low, high, 5);
    const first = Math.min(1, this.all[0]);
    const last = Math.max(this.rounds, this.all[this.all.length - 1], first + 1);
    const labels = up.found.map((y) => y.toFixed(up.digits).replace("-", "−"));
    const left = 14 + 7 * Math.max(...labels.map((x) => x.length));
    const box = { left, right: width - 16, top: 22, bottom: HEIGHT - 38 };
    this.x = (v) => box.left + ((v - first) / (last - first)) * (box.right - box.left);
    this.y = (v) => box.bottom - ((v - low) / (high - low)) * (box.bottom - box.top);
    this.box = box;
    const parts = [svg("text", { x: 0, y: 12, class: "axis" }, this.axis)];
    up.found.forEach((y, i) => {
      const height = this.y(y);
      parts.push(svg("line", { x1: box.left, x2: box.right, y1: height, y2: height, class: "grid" }));
      parts.push(svg("text", { x: box.left - 6, y: height + 4, class: "axis end" }, labels[i]));
    });
    const across = ticks(first, last, Math.min(8, Math.max(2, width / 90)));
    parts.push(svg("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, class: "base" }));
    for (const x of across.found.filter((x) => Number.isInteger(x))) {
      parts.push(svg("text", { x: this.x(x), y: box.bottom + 17, class: "axis middle" }, x.toLocaleString("en")));
    }
    parts.push(svg("text", { x: (box.left + box.right) / 2, y: HEIGHT - 4, class: "axis middle" }, "round"));
    for (const line of this.series) parts.push(...this.line(line));
    this.mark = svg("g");
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("aria-label", this.label());
    this.svg.replaceChildren(...parts, this.mark);
    this.legend();
    if (this.cursor !== null) this.read(this.cursor);
  }

  line({ colour, points, ring }) {
    const few = thinned(points);
    const place = ([x, y]) => `${this.x(x).toFixed(1)},${this.y(y).toFixed(1)}`;
    const parts = [svg("path", { d: `M${few.map(place).join("L")}`, class: "curve" })];
    const dots = this.series.length < 9 && few.length <= 60 ? few : few.slice(-1);
    for (const [x, y] of dots) parts.push(svg("circle", { cx: this.x(x), cy: this.y(y), r: dots === few ? 2.8 : 3.4, class: "dot" }));
    const best = ring && points.find((p) => p[0] === ring);
    if (best) parts.push(svg("circle", { cx: this.x(best[0]), cy: this.y(best[1]), r: 6.5, class: "ring" }));
    for (const part of parts) part.style.setProperty("--key", colour);
    return parts;
  }

  legend() {
    const names = new Map(this.series.map((s) => [s.key || s.name, s.colour]));
    const drawn = JSON.stringify([...names]);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    const items = [...names].map(([name, colour]) => {
      const line = el("i");
      line.style.setProperty("--key", colour);
      return el("li", {}, line, name);
    });
    this.keys.replaceChildren(...(names.size > 1 ? items : []));
  }

  label() {
    const ends = this.series.slice(0, 8).map((s) => {
      const [round, value] = s.points[s.points.length - 1];
      return `${s.name} ${value.toFixed(this.digits)} in round ${round}`;
    });
    return `${this.title}: ${ends.join("; ")}. Arrow keys read it round by round.`;
  }

  point(event) {
    if (!this.x) return;
    const at = event.clientX - this.svg.getBoundingClientRect().left;
    let nearest = this.all[0];
    for (const x of this.all) if (Math.abs(this.x(x) - at) < Math.abs(this.x(nearest) - at)) nearest = x;
    this.read(nearest);
  }

  key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") return this.read(null);
    if (!(event.key in steps) || !this.all.length) return;
    event.preventDefault();
    const now = this.cursor === null ? (steps[event.key] < 0 ? this.all.length : -1) : this.all.indexOf(this.cursor);
    this.read(this.all[Math.max(0, Math.min(this.all.length - 1, now + steps[event.key]))]);
  }

  read(round) {
    this.cursor = round;
    if (!this.mark) return;
    if (round === null) {
      this.mark.replaceChildren();
      return put(this.said, "");
    }
    const { top, bottom } = this.box;
    const parts = [svg("line", { x1: this.x(round), x2: this.x(round), y1: top, y2: bottom, class: "cursor" })];
    const words = [];
    for (const { name, colour, points } of this.series) {
      const found = points.find((p) => p[0] === round);
      if (!found) continue;
      const dot = svg("circle", { cx: this.x(round), cy: this.y(found[1]), r: 4.5, class: "dot" });
      dot.style.setProperty("--key", colour);
      parts.push(dot);
      words.push(this.series.length > 1 ? `${name} ${found[1].toFixed(this.digits)}` : found[1].toFixed(this.digits));
    }
    this.mark.replaceChildren(...parts);
    const more = words.length > 6 ? `, and ${words.length - 6} more` : "";
    put(this.said, `Round ${round}: ${words.slice(0, 6).join(", ")}${more}`);
  }

  table() {
    const rounds = this.all.slice(-MOST).reverse();
    const of = this.series.map((s) => new Map(s.points));
    const cell = (map, round) => (map.has(round) ? map.get(round).toFixed(this.digits).replace("-", "−") : "–");
    const rows = rounds.map((round) => [round.toLocaleString("en"), ...of.map((map) => cell(map, round))]);
    const names = this.series.map((s) => s.name);
    const made = table(`${this.title}, the last first`, ["round", ...names], rows, [true, ...names.map(() => true)]);
    const beyond = this.all.length - rounds.length;
    return beyond ? el("div", {}, made, el("p", { class: "more" }, `Not shown: ${whole(beyond)} earlier.`)) : made;
  }
}
