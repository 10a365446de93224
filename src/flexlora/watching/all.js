// The page of all runs: comparisons as arms by seeds, runs as cards, and their curves together.

import { Chart } from "/files/chart.js";
import { GLYPHS, TRAINING, badge, count, el, latest, measured, number, phase, put, timeWords, whole } from "/files/words.js";

const COLOURS = 8;
const UNREAD = 5; // Folders that are named.

export class All {
  constructor() {
    this.path = "/stream";
    this.cards = new Map();
    this.charts = new Map();
    this.tables = new Map();
    this.beyond = el("p", { class: "warning", hidden: true });
    this.unread = el("p", { class: "warning", hidden: true });
    this.repeated = el("p", { class: "note", hidden: true }, `There are more names than colours: from the ${COLOURS + 1}th on, they repeat.`);
    this.compared = el("div");
    this.grid = el("div", { class: "cards" });
    this.runs = el("section", { class: "top", "aria-labelledby": "runs" }, el("h2", { id: "runs" }, "Runs"), this.grid);
    this.curves = el("section", { "aria-labelledby": "curves" }, el("h2", { id: "curves" }, "By round"), this.repeated);
    this.nodes = [this.beyond, this.unread, this.compared, this.runs, this.curves];
  }

  draw(state, frame) {
    this.state = state;
    const runs = [...state.runs.values()].filter((run) => run.head);
    const by = {};
    for (const run of runs) by[run.head.state] = (by[run.head.state] || 0) + 1;
    const words = Object.entries(by).map(([name, n]) => `${whole(n)} ${name}`).join(", ");
    const names = [...Object.values(state.layout.compared).map((c) => c.name), ...runs.filter((r) => !this.within(r.slug)).map((r) => r.head.name)];
    frame.title(names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${whole(names.length - 3)} more` : ""));
    frame.sub(`${count(runs.length, "run")}: ${words}`);
    const { compared } = state.layout;
    frame.links(Object.entries(compared).map(([slug, c]) => [`/comparison/${slug}/report`, `Report of ${c.name}`]));
    this.beyond.hidden = !state.layout.beyond;
    put(this.beyond, `${count(state.layout.beyond, "run")} more than one server watches; name fewer.`);
    const { unread } = state.layout;
    this.unread.hidden = !unread.length;
    put(this.unread, `Not shown, for it cannot be read: ${unread.slice(0, UNREAD).join("; ")}${unread.length > UNREAD ? ` and ${whole(unread.length - UNREAD)} more` : ""}.`);
    for (const [slug, of] of Object.entries(compared)) this.matrix(slug, of);
    this.card(runs);
    this.curve(runs);
    this.repeated.hidden = !this.arms || this.arms.size <= COLOURS;
    if (this.said !== undefined && this.said !== words) frame.say(words);
    this.said = words;
  }

  // Of a comparison, what is finished or not begun is in its table alone.
  within(slug) {
    this.cells = this.layout === this.state.layout ? this.cells : new Set(Object.values(this.state.layout.compared).flatMap((c) => [...Object.values(c.cells).flatMap((x) => Object.values(x)), ...c.tuning]));
    this.layout = this.state.layout;
    return this.cells.has(slug);
  }

  matrix(slug, { name, seeds, cells, tuning }) {
    if (!this.tables.has(slug)) {
      const [words, place] = [el("p", { class: "note" }), el("div")];
      this.tables.set(slug, { words, place, cells: new Map(), key: "" });
      this.compared.append(el("section", { class: "top", "aria-label": name }, el("h2", {}, name), words, place));
    }
    const table = this.tables.get(slug);
    const key = JSON.stringify([seeds, cells]);
    if (key !== table.key) {
      table.key = key;
      const head = el("tr", {}, el("th", { scope: "col" }, "arm"), ...seeds.map((seed) => el("th", { scope: "col" }, `seed ${seed}`)));
      const rows = Object.entries(cells).map(([arm, row]) => {
        const swatch = el("i", { class: "swatch" });
        swatch.style.setProperty("--key", this.colour(arm));
        const made = seeds.map((seed) => {
          if (!row[seed]) return el("td", { class: "cell" }, "–"); // Beyond what is watched.
          const cell = el("a", { href: `/run/${row[seed]}`, class: "cell" });
          table.cells.set(row[seed], cell);
          return el("td", {}, cell);
        });
        return el("tr", {}, el("th", { scope: "row" }, swatch, arm), ...made);
      });
      const made = el("table", { class: "matrix" }, el("caption", {}, `Runs of ${name}`), el("thead", {}, head), el("tbody", {}, ...rows));
      table.place.replaceChildren(el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Runs of ${name}` }, made));
    }
    let done = 0;
    for (const [of, cell] of table.cells) {
      const run = this.state.runs.get(of);
      if (!run || !run.head) continue;
      const { head } = run;
      done += head.state === "finished";
      cell.className = `cell is-${head.state.replace(" ", "-")}`;
      const far = head.state === "running" || head.state === "stopped" ? ` ${whole(head.last)}/${whole(head.rounds)}` : "";
      put(cell, `${GLYPHS[head.state] || "?"}${far || ` ${head.state}`}`);
      cell.setAttribute("aria-label", `${head.name}: ${head.state}${far && ` after round${far}`}`);
    }
    const states = tuning.map((of) => this.state.runs.get(of)).filter((run) => run && run.head).map((run) => run.head.state);
    const tuned = states.filter((x) => x === "finished").length;
    const tune = tuning.length ? ` Learning rates: ${tuned} of ${count(tuning.length, "tuning run")} begun are finished.` : "";
    put(table.words, `${whole(done)} of ${count(table.cells.size, "run")} finished.${tune}`);
  }

  card(runs) {
    const shown = runs.filter((run) => !this.within(run.slug) || !["finished", "waiting"].includes(run.head.state));
    this.runs.hidden = !shown.length;
    const wanted = new Set(shown.map((run) => run.slug));
    for (const [slug, card] of this.cards) {
      if (!wanted.has(slug)) {
        card.node.remove();
        this.cards.delete(slug);
      }
    }
    for (const run of shown) {
      if (!this.cards.has(run.slug)) this.cards.set(run.slug, this.made(run));
      this.fill(this.cards.get(run.slug), run);
    }
  }

  made(run) {
    const card = { bar: el("progress", { "aria-label": `Rounds of ${run.head.name} that are played` }), badge: el("span"), now: el("p", { class: "now" }), facts: el("p", { class: "facts" }), time: el("p", { class: "facts" }) };
    const swatch = el("i", { class: "swatch" });
    swatch.style.setProperty("--key", this.colour(run.head.arm));
    const title = el("h3", {}, swatch, el("a", { href: `/run/${run.slug}` }, run.head.name));
    card.node = el("article", { class: "card" }, el("div", { class: "heading" }, title, card.badge), card.bar, card.now, card.facts, card.time);
    this.grid.append(card.node);
    return card;
  }

  fill(card, run) {
    const { head, points } = run;
    if (card.state !== head.state) card.badge.replaceChildren(badge(head.state));
    card.state = head.state;
    put(card.now, phase(run) || (head.best ? `best round ${head.best}` : ""));
    card.bar.hidden = !head.rule;
    if (!head.rule) return;
    card.bar.max = head.rounds;
    card.bar.value = head.last + (head.round && head.drawn ? Math.min(0.99, (head.drawn - head.flight) / head.drawn) : 0);
    const last = points[points.length - 1];
    const found = latest(run, head.decides);
    const of = measured(run, head.decides);
    const facts = [`round ${whole(head.last)} of ${whole(head.rounds)}`];
    if (last) facts.push(`training loss ${number(last[1])}`);
    if (found) facts.push(`validation ${of.label} ${number(found[1], of.digits)}`);
    if (head.failures) facts.push(count(head.failures, "failure"));
    put(card.facts, facts.join(" · "));
    this.time(card, run);
  }

  time(card, run) {
    put(card.time, run.head.state === "running" ? timeWords(run) : "");
  }

  tick() {
    for (const [slug, card] of this.cards) this.time(card, this.state.runs.get(slug));
  }

  colour(arm) {
    this.arms = this.arms || new Map();
    if (!this.arms.has(arm)) this.arms.set(arm, `var(--c${this.arms.size % COLOURS})`);
    return this.arms.get(arm);
  }

  curve(runs) {
    const played = runs.filter((run) => run.points.length && run.head.rule && run.head.arm !== "tuning");
    this.curves.hidden = !played.length;
    const key = played.map((run) => `${run.slug} ${run.made} ${run.points.length}`).join();
    if (key === this.key) return;
    this.key = key;
    const rounds = Math.max(...played.map((run) => run.head.rounds));
    const names = new Map();
    for (const run of played) for (const m of run.head.measures) names.set(m.name, m);
    names.set("training loss", { axis: "loss (nats per token)", digits: 3 });
    for (const [name, m] of names) {
      const training = name === "training loss";
      const series = [];
      for (const run of played) {
        const points = run.points.map((p) => [p[0], training ? p[1] : p[7][name]]).filter((p) => p[1] !== undefined && p[1] !== null);
        if (points.length) series.push({ name: run.head.name, key: run.head.arm, colour: this.colour(run.head.arm), points });
      }
      if (!series.length) continue;
      if (!this.charts.has(name)) {
        const title = training ? "Training loss by round" : `Validation ${m.label} by round`;
        const words = training ? TRAINING : "Validation after each round.";
        const chart = new Chart(title, words, m.axis, m.digits);
        this.charts.set(name, chart);
        const after = training ? null : this.charts.get("training loss");
        this.curves.insertBefore(chart.node, after ? after.node : null);
      }
      this.charts.get(name).draw({ series, rounds });
    }
  }
}
