// Searches the matches of all runs by outcome and metric, a page at a time.
import {at, make} from "./base.js";

const fields = at("query").elements;
let after = null;

function options(name, values) {
  const field = fields[name], known = new Set([...field.options].map((each) => each.value));
  for (const [value, text] of values) if (!known.has(value)) field.append(new Option(text, value));
}

function card(row) {
  const link = `match/${row.run}?match=${encodeURIComponent(row.match)}`;
  const figure = row.value === null ? [] : [`${fields.metric.value} ${row.value}`];
  return make("li", {class: "card"}, make("a", {href: link}, row.match), make("p", {class: "faint"}, named(row.run)),
    make("p", {}, [row.outcome, ...figure, ...row.marks].join(", ")));
}

function named(run) {
  const found = [...fields.run.options].find((each) => each.value === run);
  return found ? found.text : "";
}

async function got(path) {
  const answer = await fetch(path, {cache: "no-store"});
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

async function search(more) {
  try {
    const asked = new URLSearchParams([...new FormData(at("query"))].filter(([, value]) => value));
    if (more) asked.set("after", after);
    const found = await got(`matches?${asked}`);
    options("run", (await got("runs")).map((each) => [each.key, each.run]));
    options("outcome", found.outcomes.map((each) => [each, each]));
    options("metric", found.metrics.map((each) => [each, each]));
    if (!more) at("matches").replaceChildren();
    at("matches").append(...found.rows.map(card));
    after = found.after;
    at("further").hidden = after === null;
    const left = found.left_mb ? ` ${found.left_mb} MB of matches are not read yet: search again in a moment.` : "";
    at("searched").textContent = `${at("matches").children.length} matches shown${after === null ? "" : ", there are more"}.${left}`;
  } catch (error) {
    at("searched").textContent = `The matches could not be loaded: ${error.message}`;
  }
}

at("query").addEventListener("submit", (event) => { event.preventDefault(); search(false); });
at("further").addEventListener("click", () => search(true));
search(false);
