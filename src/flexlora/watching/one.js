// The page of one run.

import { Chart } from "/files/chart.js";
import { Round } from "/files/round.js";
import { TRAINING, at, badge, el, latest, measured, number, phase, put, size, table, timeWords, whole } from "/files/words.js";

const SHOWN = 40; // Sentences that are there before one asks for more.

export class One {
  constructor(slug) {
    this.slug = slug;
    this.round = new Round();
    this.loss = new Chart("Training loss by round", TRAINING, "loss (nats per token)", 3);
    this.charts = new Map();
    this.bar = el("progress", { "aria-label": "Rounds that are played" });
    this.now = el("p", { class: "now" });
    this.warning = el("p", { class: "warning", hidden: true });
    this.tiles = new Map();
    this.list = el("dl", { class: "tiles" });
    for (const name of ["Rounds", "Training loss", "Validation", "Failures", "Sent", "Time"]) {
      const tile = { value: el("b"), more: el("span"), name: el("dt", {}, name) };
      this.tiles.set(name, tile);
      this.list.append(el("div", {}, tile.name, el("dd", {}, tile.value, tile.more)));
    }
    this.curves = el("section", { "aria-labelledby": "curves" }, el("h2", { id: "curves" }, "By round"), this.loss.node);
    this.none = el("p", { class: "note" }, "No round has ended yet.");
    this.curves.append(this.none);
    this.log = el("ol", { class: "told" });
    this.more = el("button", { type: "button", hidden: true });
    this.more.addEventListener("click", () => {
      this.every = true;
      this.tell();
    });
    const told = el("section", { "aria-labelledby": "told" }, el("h2", { id: "told" }, "What happened"), this.log, this.more);
    this.outcome = el("section", { "aria-labelledby": "outcome", hidden: true }, el("h2", { id: "outcome" }, "Outcome"), el("p", { class: "note" }, "Scores on unseen examples."), el("div"));
    this.nodes = [el("section", { class: "top", "aria-label": "How it stands" }, this.warning, this.bar, this.now, this.list, this.round.node), this.outcome, this.curves, told];
  }

  get path() {
    return `/run/${this.slug}/stream`;
  }

  draw(state, frame) {
    const run = state.runs.get(this.slug);
    if (!run) return;
    this.run = run;
    const { head } = run;
    frame.title(head.name, badge(head.state));
    const about = head.rule ? `${head.rule} on ${head.model} · ${head.folder}` : "";
    frame.sub(about);
    frame.links([...(state.layout.runs > 1 ? [["/", "All runs"]] : []), ...(head.rule ? [[`/run/${this.slug}/report`, "Report of this run"]] : [])]);
    this.stand();
    this.round.draw(run);
    if (head.state === "finished" || head.state === "not scored") this.round.node.hidden = true;
    this.score();
    this.curve();
    this.tell();
    this.announce(frame);
  }

  stand() {
    const { head, points } = this.run;
    const broken = head.trouble || head.state === "stopped" || head.state === "not scored";
    this.warning.hidden = !broken;
    const words = phase(this.run);
    const cure = head.resume && !head.trouble ? ` Go on with: ${head.resume}` : "";
    put(this.warning, broken ? `${words[0].toUpperCase()}${words.slice(1)}.${cure}` : "");
    this.now.hidden = !words || Boolean(broken);
    put(this.now, words && `${words[0].toUpperCase()}${words.slice(1)}.`);
    this.list.hidden = this.bar.hidden = !head.rule;
    if (!head.rule) return;
    const parts = head.round && head.drawn ? (head.drawn - head.flight) / head.drawn : 0;
    this.bar.max = head.rounds;
    this.bar.value = head.last + Math.min(0.99, parts);
    this.tile("Rounds", `${whole(head.last)} of ${whole(head.rounds)}`, head.round && head.state === "running" ? `round ${head.round} is under way` : "");
    const last = points[points.length - 1];
    this.tile("Training loss", last ? number(last[1]) : "–", last ? `in round ${last[0]}` : "");
    const of = measured(this.run, head.decides);
    const found = latest(this.run, head.decides);
    const best = head.best === null ? "" : `, best in round ${head.best}`;
    this.tile("Validation", found ? number(found[1], of.digits) : "–", found ? `${of.label} in round ${found[0]}${best}` : "");
    const failed = points.reduce((sum, p) => sum + p[3], 0);
    this.tile("Failures", whole(head.failures), failed ? `${whole(failed)} in training` : "");
    const [down, up] = [5, 6].map((i) => points.reduce((sum, p) => sum + p[i], 0));
    this.tile("Sent", size(down + up), down + up ? `${size(down)} down, ${size(up)} up` : "");
    this.tick();
  }

  tile(name, value, more) {
    const tile = this.tiles.get(name);
    put(tile.value, value);
    put(tile.more, more);
  }

  // Every second, without a word of the server.
  tick() {
    if (!this.run || !this.run.head.rule) return;
    const [elapsed, left] = timeWords(this.run).split(", ");
    this.tile("Time", elapsed, left || (this.run.head.state === "running" ? "since it was started" : "as it was played last"));
  }

  // The final scores, once they are there.
  score() {
    const { outcome = [] } = this.run.head;
    const key = JSON.stringify(outcome);
    if (this.scored === key) return;
    this.scored = key;
    this.outcome.hidden = !outcome.length;
    const names = [...new Set(outcome.flatMap((row) => Object.keys(row[2])))].map((name) => measured(this.run, name));
    const rows = outcome.map(([state, ranks, values]) => [state, ranks || "–", ...names.map((m) => number(values[m.name], m.digits))]);
    const columns = ["state", "ranks", ...names.map((m) => m.label)];
    this.outcome.lastChild.replaceChildren(table("Scores on unseen examples", columns, rows, [false, false, ...names.map(() => true)]));
  }

  curve() {
    const { head, points } = this.run;
    this.none.hidden = points.length > 0;
    for (const chart of [this.loss, ...this.charts.values()]) if (!points.length) chart.node.hidden = true;
    if (!points.length || !head.rule || points === this.drawn && points.length === this.length) return;
    this.drawn = points;
    this.length = points.length;
    const draw = (chart, name, value, ring) => {
      const found = points.filter((p) => value(p) !== undefined && value(p) !== null).map((p) => [p[0], value(p)]);
      chart.node.hidden = !found.length;
      if (found.length) chart.draw({ series: [{ name, colour: "var(--c0)", points: found, ring }], rounds: head.rounds });
    };
    draw(this.loss, "training loss", (p) => p[1]);
    for (const measure of head.measures) {
      if (!this.charts.has(measure.name)) {
        const decides = measure.name === head.decides ? "; the ring is the best round so far" : "";
        const words = measure.name.endsWith(" on clients") ? "The global adapter at each client's own rank, on its held-out part" : "The server's validation after each round";
        const chart = new Chart(`Validation ${measure.label} by round`, `${words}${decides}.`, measure.axis, measure.digits);
        this.charts.set(measure.name, chart);
        this.curves.insertBefore(chart.node, this.loss.node);
      }
      draw(this.charts.get(measure.name), measure.label, (p) => p[7][measure.name], measure.name === head.decides ? head.best : 0);
    }
  }

  tell() {
    const { told, lost } = this.run;
    const shown = this.every ? told : told.slice(-SHOWN);
    const key = told.length ? `${told.length} ${lost} ${told[told.length - 1][0]} ${shown.length}` : "";
    if (key === this.key) return;
    this.key = key;
    const items = shown.map(([when, words, tone]) => el("li", { class: tone || null }, el("time", {}, at(when)), el("span", {}, words)));
    this.log.replaceChildren(...items.reverse());
    const beyond = told.length - shown.length;
    this.more.hidden = !beyond;
    put(this.more, `Show ${whole(beyond)} more`);
    if (lost && !beyond) this.log.append(el("li", {}, el("time"), el("span", {}, `${whole(lost)} before these; events.jsonl has them all.`)));
  }

  announce(frame) {
    const { head } = this.run;
    const words = head.rule ? `${head.state}, ${whole(head.last)} of ${whole(head.rounds)} rounds` : head.state;
    if (this.said !== undefined && this.said !== words) frame.say(`${head.name}: ${words}`);
    this.said = words;
  }
}
