// Numbers and states as people read them, and elements made of them.

export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// Sets text only where it differs, so that nothing is selected away or read out again.
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function clock(seconds) {
  const all = Math.max(0, Math.round(seconds));
  const two = (x) => String(x).padStart(2, "0");
  const [h, m, s] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const rounded = Number(value.toFixed(digits)) === 0 ? 0 : value; // No "−0.000".
  const shown = rounded.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return shown.replace("-", "−");
}

export const whole = (value) => value.toLocaleString("en");

export const count = (value, thing) => `${whole(value)} ${thing}${value === 1 ? "" : "s"}`;

export function size(bytes) {
  let [value, unit] = [bytes, "bytes"];
  for (const next of ["kB", "MB", "GB", "TB"]) {
    if (Number(value.toFixed(1)) < 1000) break; // What is shown, not what is rounded to 1000.0.
    value /= 1000;
    unit = next;
  }
  return unit === "bytes" ? count(bytes, "byte") : `${value.toFixed(1)} ${unit}`;
}

export function at(seconds) {
  const when = new Date(seconds * 1000);
  if (Number.isNaN(when.getTime())) return "–";
  const day = when.toDateString() === new Date().toDateString() ? "" : `${when.toLocaleDateString()} `;
  return day + when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
}

export const TRAINING = "Mean loss of the clients that replied in a round, in nats per token, as they trained.";

export const GLYPHS = {
  running: "▶",
  finished: "✓",
  stopped: "■",
  failed: "✗",
  damaged: "✗",
  gone: "✗",
  "not scored": "■",
  "never started": "○",
  waiting: "○",
};

export function badge(name) {
  return el("span", { class: `badge is-${name.replace(" ", "-")}` }, `${GLYPHS[name] || "?"} ${name}`);
}

// Seconds that the process which plays has played, and those left, as they are now.
export function times(run) {
  const { head } = run;
  if (head.elapsed === null || head.elapsed === undefined) return { elapsed: null, left: null };
  const since = head.state === "running" ? (Date.now() - run.received) / 1000 : 0;
  const left = head.left === null || head.state !== "running" ? null : Math.max(0, head.left - since);
  return { elapsed: head.elapsed + since, left };
}

export function timeWords(run) {
  const { elapsed, left } = times(run);
  if (elapsed === null) return "–";
  if (left === null) return clock(elapsed);
  return `${clock(elapsed)}, ${run.head.patience ? "at most" : "about"} ${clock(left)} left`;
}

// What the run is at, in one sentence.
export function phase(run) {
  const { head, begun } = run;
  if (head.trouble) return head.trouble;
  if (head.state === "running") {
    if (head.scoring) return `all rounds are played; scoring: ${head.scoring}`;
    if (head.round && head.flight) return `round ${head.round}: ${whole(head.flight)} of ${count(head.drawn, "client")} in flight`;
    if (head.round) return `round ${head.round}: combining and scoring`;
    return head.last ? `round ${head.last} has ended` : "the first round is being prepared";
  }
  if (head.state === "stopped") {
    const where = head.round ? `in round ${head.round}` : `after round ${head.last}`;
    return `stopped ${where}: no process plays it`;
  }
  if (head.state === "not scored") return "all rounds are played, and nothing is scored; no process plays it";
  if (head.state === "never started") return "made, and never started";
  if (head.state === "waiting") return "not begun";
  if (head.state === "gone") return "its folder is not there any more";
  return "";
}

// The last point that has the metric: [round, value], or null.
export function latest(run, name) {
  for (let i = run.points.length - 1; i >= 0; i--) {
    const value = run.points[i][7][name];
    if (value !== undefined) return [run.points[i][0], value];
  }
  return null;
}

export const measured = (run, name) => run.head.measures.find((m) => m.name === name) || { name, label: name, digits: 3 };

export function table(caption, columns, rows, numeric = []) {
  const cell = (tag, text, i, scope) => el(tag, { scope, class: numeric[i] ? "n" : null }, text);
  const head = el("tr", {}, ...columns.map((name, i) => cell("th", name, i, "col")));
  const body = rows.map((row) => el("tr", {}, ...row.map((x, i) => cell(i ? "td" : "th", x, i, i ? null : "row"))));
  const made = el("table", {}, el("caption", {}, caption), el("thead", {}, head), el("tbody", {}, ...body));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, made);
}

// A table behind its name, built only while it is open; fill() gives it.
export function folded(name, fill) {
  const place = el("div");
  const made = el("details", {}, el("summary", {}, name), place);
  // Whoever reads or scrolls it stays where they are.
  const refresh = () => {
    if (!made.open) return;
    const old = place.querySelector(".scroll");
    const [top, left, focused] = old ? [old.scrollTop, old.scrollLeft, old === document.activeElement] : [0, 0, false];
    place.replaceChildren(fill());
    const box = place.querySelector(".scroll");
    if (!old || !box) return;
    box.scrollTo(left, top);
    if (focused) box.focus({ preventScroll: true });
  };
  made.addEventListener("toggle", refresh);
  return { node: made, refresh };
}
