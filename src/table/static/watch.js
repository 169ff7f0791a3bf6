// Lists the runs, the most recently changed first, and reloads the list every few seconds.
import {at, make} from "./base.js";

const EVERY_MS = 5000;
let rows = [];

function ago(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${seconds} s`;
}

function card(row) {
  const figures = [`seed ${row.seed}`, `iterations ${row.done}`, ...(row.kept ? [`kept ${row.kept} (${row.gain})`] : [])];
  const report = row.report_s === null ? make("p", {class: "faint"}, "no report yet")
    : make("p", {}, make("a", {href: `report/${row.key}`}, "report"), ` written ${ago(row.report_s)} ago`);
  return make("li", {class: "card"}, make("h2", {}, `${row.experiment}: ${row.state}`),
    make("p", {class: "faint"}, `${row.run}, written to ${ago(row.age_s)} ago`), make("p", {}, figures.join(", ")), report);
}

function show() {
  const words = at("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = rows.filter((row) => {
    const text = Object.values(row).join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const focused = document.activeElement && document.activeElement.getAttribute("href");
  at("runs").replaceChildren(...found.map(card));
  if (focused) [...at("runs").querySelectorAll("a")].find((each) => each.getAttribute("href") === focused)?.focus();
  const text = `${found.length} of ${rows.length} runs`;
  if (at("status").textContent !== text) at("status").textContent = text;
}

async function look() {
  try {
    const answer = await fetch("runs", {cache: "no-store"});
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    rows = found;
    show();
  } catch (error) {
    at("status").textContent = `The runs could not be loaded: ${error.message}. Trying again…`;
  }
  setTimeout(look, EVERY_MS);
}

at("find").addEventListener("input", show);
look();
