"use strict";
// The list of matches: filtered, paged, and one transcript at a time. Transcripts were escaped when the page was written.
const stored = document.getElementById("matches");
const matches = stored ? JSON.parse(stored.textContent) : [];
const PAGE = 50;
let shown = PAGE;
let found = matches;
let at = -1;

const by = id => document.getElementById(id);
const address = match => "#match=" + encodeURIComponent(match.match) + "&at=" + matches.indexOf(match);

function wanted(match) {
  const words = by("find").value.toLowerCase();
  if (words && match.text === undefined) {
    match.text = new DOMParser().parseFromString(match.html, "text/html").body.textContent.toLowerCase();
  }
  const least = by("least").value;
  const most = by("most").value;
  return ["iteration", "kind", "outcome"].every(key => !by("by-" + key).value || String(match[key]) === by("by-" + key).value)
    && ["blamed", "retried", "forked"].every(key => !by(key).checked || match[key])
    && (!least || match.value >= Number(least)) && (!most || match.value <= Number(most))
    && (!words || match.text.includes(words) || match.match.toLowerCase().includes(words));
}

function row(match) {
  const line = document.createElement("tr");
  const link = document.createElement("a");
  link.href = address(match);
  link.textContent = match.match;
  const first = document.createElement("th");
  first.scope = "row";
  first.append(link);
  line.append(first);
  const marks = ["blamed", "retried", "forked"].filter(key => match[key]).join(", ");
  for (const value of [match.iteration, match.kind, Number(match.value.toFixed(3)), match.outcome, marks]) {
    const cell = document.createElement("td");
    cell.textContent = value;
    line.append(cell);
  }
  if (match === found[at]) line.className = "at";
  return line;
}

function list() {
  by("rows").replaceChildren(...found.slice(0, shown).map(row));
  by("further").hidden = found.length <= shown;
  by("place").textContent = found.length + " of " + matches.length + " matches" + (at < 0 ? "" : ", number " + (at + 1) + " is shown below");
}

function show(number) {
  at = found.length ? (number + found.length) % found.length : -1;
  by("match").innerHTML = at < 0 ? "" : found[at].html;
  list();
}

function filter() {
  const match = found[at];
  found = matches.filter(wanted);
  shown = PAGE;
  show(Math.max(found.indexOf(match), 0));
}

function follow() {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (!asked.has("match")) return false;
  const match = matches[Number(asked.get("at"))];
  const index = found.indexOf(match && match.match === asked.get("match") ? match : found.find(each => each.match === asked.get("match")));
  if (index >= 0) {
    show(index);
    by("match").scrollIntoView();
    by("match").focus({preventScroll: true});
  }
  return index >= 0;
}

function begin() {
  for (const key of ["iteration", "kind", "outcome"]) {
    for (const value of new Set(matches.map(match => match[key]))) by("by-" + key).append(new Option(value, value));
  }
  document.querySelectorAll("#transcripts [hidden]").forEach(each => { each.hidden = false; });
  by("transcripts").querySelector("form").addEventListener("submit", event => event.preventDefault());
  for (const id of ["find", "least", "most"]) by(id).addEventListener("input", filter);
  for (const id of ["by-iteration", "by-kind", "by-outcome", "blamed", "retried", "forked"]) by(id).addEventListener("change", filter);
  by("lanes").addEventListener("change", () => by("transcripts").classList.toggle("lanes", by("lanes").checked));
  by("previous").addEventListener("click", () => show(at - 1));
  by("next").addEventListener("click", () => show(at + 1));
  by("further").addEventListener("click", () => { shown += PAGE; list(); });
  window.addEventListener("hashchange", follow);
  if (!follow()) show(0);
}

if (matches.length) begin();
