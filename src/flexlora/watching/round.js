// The clients of a round, one square each: in flight, replied, left out, not needed.

import { el, folded, number, put, table, whole } from "/files/words.js";

const NS = "http://www.w3.org/2000/svg";
const STATES = ["in flight", "replied", "left out", "not needed"];
const ROWS = 250;

const stateOf = (answer) => (answer === undefined ? 0 : answer[1] ? 1 : answer[1] === null ? 3 : 2);

export class Round {
  constructor() {
    Object.assign(this, { begun: null, marks: [], shown: 0, cursor: null, run: null });
    this.title = el("h3");
    this.keys = el("ul", { class: "keys squares" });
    this.counts = STATES.map((name, i) => {
      const words = el("span");
      this.keys.append(el("li", {}, el("i", { class: `key-${i}` }), words));
      return words;
    });
    this.svg = document.createElementNS(NS, "svg");
    for (const [key, value] of Object.entries({ role: "application", "aria-roledescription": "chart", tabindex: "0", class: "clients" })) this.svg.setAttribute(key, value);
    this.plot = el("div", { class: "plot low" }, this.svg);
    this.said = el("p", { class: "readout", role: "status" });
    this.list = folded("Clients", () => this.table());
    this.node = el("figure", { "aria-label": "Clients of the round" }, this.title, this.keys, this.plot, this.said, this.list.node);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.read(null));
    this.svg.addEventListener("blur", () => this.read(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.lay()).observe(this.plot);
  }

  draw(run) {
    this.run = run;
    this.node.hidden = !run.begun;
    if (!run.begun) return;
    if (run.begun !== this.begun || run.answers.length < this.shown) {
      this.begun = run.begun;
      this.shown = 0;
      this.cursor = null;
      put(this.said, "");
      this.marks = run.begun.clients.map(() => document.createElementNS(NS, "path"));
      for (const mark of this.marks) mark.setAttribute("class", "client-0");
      this.svg.replaceChildren(...this.marks);
      this.lay();
    }
    for (const answer of run.answers.slice(this.shown)) this.mark(answer[0], stateOf(answer));
    this.shown = run.answers.length;
    const counts = STATES.map(() => 0);
    for (const answer of run.place.values()) counts[stateOf(answer)] += 1;
    const over = run.head.last >= run.begun.round;
    counts[0] = run.begun.clients.length - counts[1] - counts[2] - counts[3];
    this.states = [over || run.head.state !== "running" ? "without an answer" : STATES[0], ...STATES.slice(1)];
    const words = this.states.map((name, i) => `${whole(counts[i])} ${name}`);
    words.forEach((text, i) => put(this.counts[i], text));
    this.keys.lastChild.hidden = !counts[3];
    if (!counts[3]) words.pop();
    put(this.title, `Round ${run.begun.round}${over ? ", which has ended" : ""}`);
    this.svg.setAttribute("aria-label", `Clients of round ${run.begun.round}: ${words.join(", ")}. Arrow keys read them one by one.`);
    if (this.cursor !== null) this.read(this.cursor);
    this.list.refresh();
  }

  lay() {
    const width = Math.floor(this.plot.clientWidth);
    const n = this.marks.length;
    if (!width || !n) return;
    this.size = n <= 60 ? 20 : n <= 300 ? 13 : width < 600 ? 6 : 8;
    this.step = this.size + (this.size > 12 ? 4 : 2);
    this.across = Math.max(1, Math.floor((width + this.step - this.size) / this.step));
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", Math.ceil(n / this.across) * this.step);
    this.marks.forEach((mark, i) => {
      const [x, y] = [(i % this.across) * this.step, Math.floor(i / this.across) * this.step];
      mark.setAttribute("transform", `translate(${x},${y})`);
      this.shape(mark);
    });
  }

  // A state is its shape as well as its colour: a frame, a square, a cross, a bar.
  shape(mark) {
    const s = this.size;
    const inner = s > 12 ? 1 : 0.5;
    const square = `M${inner},${inner}H${s - inner}V${s - inner}H${inner}Z`;
    const cross = `M${inner},${inner}L${s - inner},${s - inner}M${s - inner},${inner}L${inner},${s - inner}`;
    const bar = `M${inner},${s / 2}H${s - inner}`;
    mark.setAttribute("d", mark.classList.contains("client-2") ? cross : mark.classList.contains("client-3") ? bar : square);
  }

  mark(place, kind) {
    const mark = this.marks[place];
    if (!mark) return;
    mark.setAttribute("class", `client-${kind}`);
    if (this.size) this.shape(mark);
  }

  point(event) {
    if (!this.size) return;
    const box = this.svg.getBoundingClientRect();
    const [x, y] = [Math.floor((event.clientX - box.left) / this.step), Math.floor((event.clientY - box.top) / this.step)];
    const place = y * this.across + x;
    this.read(x < this.across && place >= 0 && place < this.marks.length ? place : null);
  }

  key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.across, ArrowDown: this.across };
    if (event.key === "Escape") return this.read(null);
    if (!(event.key in steps) || !this.marks.length) return;
    event.preventDefault();
    const next = this.cursor === null ? 0 : this.cursor + steps[event.key];
    if (next >= 0 && next < this.marks.length) this.read(next);
  }

  read(place) {
    if (this.cursor !== null && this.marks[this.cursor]) this.marks[this.cursor].classList.remove("at");
    this.cursor = place;
    if (place === null) return put(this.said, "");
    put(this.said, this.words(place));
    this.marks[place].classList.add("at");
  }

  words(place) {
    const name = this.run.begun.clients[place];
    const answer = this.run.place.get(place);
    if (answer === undefined) return `${name}: ${this.states[0]}`;
    const [, good, type, loss, seconds, reason] = answer;
    if (good === null) return `${name}: not needed: ${reason}`;
    if (!good) return `${name}: left out: ${reason}`;
    return `${name}${type ? `, ${type}` : ""}: replied, loss ${number(loss)}, trained ${number(seconds, 1)} s`;
  }

  table() {
    const { clients } = this.run.begun;
    const order = clients.map((_, i) => i).sort((a, b) => rank(this.run.place.get(a)) - rank(this.run.place.get(b)) || a - b);
    const rows = order.slice(0, ROWS).map((i) => {
      const answer = this.run.place.get(i);
      const [, , type = "", loss = null, seconds = null, reason = ""] = answer || [];
      return [clients[i], this.states[stateOf(answer)], type || "–", number(loss), number(seconds, 1), reason || ""];
    });
    const made = table(`Clients of round ${this.run.begun.round}`, ["client", "state", "type", "loss", "seconds", "reason"], rows, [0, 0, 0, 1, 1, 0]);
    const beyond = order.length - rows.length;
    return beyond > 0 ? el("div", {}, made, el("p", { class: "more" }, `Not shown: ${whole(beyond)} more.`)) : made;
  }
}

// Left out first, then in flight.
const rank = (answer) => [1, 3, 0, 2][stateOf(answer)];
