// The page: which view its address asks for, what all views share, one drawing a frame at most.

import { All } from "/files/all.js";
import { One } from "/files/one.js";
import { listen, state } from "/files/stream.js";
import { el, put } from "/files/words.js";

const by = (id) => document.getElementById(id);
const LIVE = {
  live: "live",
  waiting: "the server does not answer; trying again",
  locked: "the server was started again with another token: open the address that it printed",
  gone: "the server knows no such run any more: begin at its first page",
};

const frame = {
  title(name, ...more) {
    const words = `${name} ${more.map((x) => x.textContent).join(" ")}`.trim();
    if (frame.named === words) return;
    frame.named = words;
    document.title = `${words} · FlexLoRA watch`;
    by("title").replaceChildren(name, " ", ...more);
  },
  sub: (words) => put(by("sub"), words),
  links(links) {
    const key = JSON.stringify(links);
    if (frame.linked === key) return;
    frame.linked = key;
    by("nav").hidden = !links.length;
    by("nav").replaceChildren(...links.map(([href, words]) => el("a", { href }, words)));
  },
  say: (words) => put(by("said"), words),
};

const found = location.pathname.match(/^\/run\/([^/]+)$/);
const view = found ? new One(decodeURIComponent(found[1])) : new All();
by("nav").hidden = true;
let asked = 0;

function draw() {
  asked = 0;
  const { dataset } = document.documentElement;
  if (!dataset.drawn) by("main").replaceChildren(...view.nodes);
  view.draw(state, frame);
  if (!dataset.drawn) performance.mark("first-drawn");
  dataset.drawn = String(Number(dataset.drawn || 0) + 1);
}

listen(
  view.path,
  () => {
    asked = asked || requestAnimationFrame(draw);
  },
  (kind) => {
    put(by("live"), LIVE[kind]);
    by("live").className = `live is-${kind}`;
  },
);
setInterval(() => document.documentElement.dataset.drawn && !document.hidden && view.tick(), 1000);
