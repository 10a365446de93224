// The server's events as state: runs by slug, and the layout of comparisons.

const AGAIN = 2000; // Milliseconds until a new try where the browser has given up.

export const state = { layout: { runs: 0, compared: {}, beyond: 0, unread: [] }, runs: new Map() };

let made = 0;

// made: another number for a run that is told as a whole again.
const blank = (slug) => ({ slug, made: (made += 1), head: null, points: [], told: [], lost: 0, begun: null, answers: [], place: new Map() });

// One message: replaced are head and begun, added to are points, answers and told.
export function apply(message) {
  if (message.layout) {
    state.layout = message.layout;
    return null;
  }
  const { slug } = message;
  const run = message.whole ? blank(slug) : state.runs.get(slug);
  if (!run) return null; // Its whole comes with the next connection.
  state.runs.set(slug, run);
  if (message.head) {
    run.head = message.head;
    run.received = Date.now();
  }
  if (message.begun) {
    run.begun = message.begun;
    run.answers = [];
    run.place = new Map();
  }
  if (message.points) run.points.push(...message.points);
  for (const answer of message.answers || []) {
    run.answers.push(answer);
    run.place.set(answer[0], answer); // A screen may leave out who has replied.
  }
  if (message.told) {
    run.told.push(...message.told);
    run.told.splice(0, run.told.length - 200);
  }
  if ("lost" in message) run.lost = message.lost;
  return run;
}

// Calls changed(runs) after each event, and status(kind) where kind is live, waiting or locked.
// While the page is hidden it listens to nothing; on its return it asks for what it missed.
export function listen(path, changed, status) {
  let source = null;
  let last = "";
  let timer = 0;

  const close = () => {
    clearTimeout(timer);
    if (source) source.close();
    source = null;
  };
  const open = () => {
    close();
    source = new EventSource(last ? `${path}?after=${encodeURIComponent(last)}` : path);
    source.onopen = () => status("live");
    source.onmessage = (event) => {
      last = event.lastEventId;
      changed(JSON.parse(event.data).map(apply));
    };
    source.onerror = () => {
      status("waiting");
      if (source && source.readyState === EventSource.CLOSED) refused();
    };
  };
  // The server answered otherwise than with a stream, or the browser gives up by itself.
  const refused = async () => {
    close();
    try {
      const answer = await fetch(location.pathname, { cache: "no-store" });
      if (answer.status === 401) return status("locked");
      if (answer.status === 404) return status("gone");
    } catch {
      // Not there: it may come back.
    }
    timer = setTimeout(open, AGAIN);
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : source || open()));
  open();
}
