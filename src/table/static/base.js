// Shared by all pages: their address, requests, events, and new elements. Text is always inserted as text, never HTML.

// The part of the path up to the token, as /p/TOKEN/ (or /proxied/p/TOKEN/).
export const home = (location.pathname.match(/^.*\/p\/[^/]+\//) || [location.pathname])[0];

// JSON from `path`, which is relative to `home`; with a body as a POST. Throws an Error with what the server says.
export async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(body),
  };
  const answer = await fetch(home + path, {cache: "no-store", ...options});
  const found = await answer.json().catch(() => ({error: "the table did not answer: try again"}));
  if (!answer.ok) throw new Error(found.error || "the table refused");
  return found;
}

// Calls `take` with every event of the stream `path`, and `lost` with true or false when the connection breaks or is
// back. The browser reconnects; if it gives up, the stream is opened again after 2 s.
export function follow(path, take, lost = () => {}) {
  let source;
  const open = () => {
    source = new EventSource(home + path);
    source.onopen = () => lost(false);
    source.onmessage = (event) => take(JSON.parse(event.data));
    source.onerror = () => {
      lost(true);
      if (source.readyState === EventSource.CLOSED) setTimeout(open, 2000);
    };
  };
  open();
  return () => source.close();
}

// The element with the id `id`.
export const at = (id) => document.getElementById(id);

// A new element: make("p", {class: "faint"}, "text", child).
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.map((each) => (each instanceof Node ? each : document.createTextNode(String(each)))));
  return made;
}
