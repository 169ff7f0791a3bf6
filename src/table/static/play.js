// Plays: sits down, shows what the seat sees, sends replies, shows how the match ended.
import {ask, at, follow, make} from "./base.js";
import {widget} from "./widgets.js";

let state = {phase: ""};
let shown = "";  // the question whose form is on the page
let sent = {question: "", text: ""};  // the last reply: it goes back into the field if the question is asked again

const SAYS = {
  idle: "Nobody has to wait for you: sit down when you are ready.",
  lobby: "Waiting for another person…",
  wait: "Waiting for the others…",
  ask: "It is your turn.",
  over: "The match is over.",
  lost: "The match was given up, and does not count.",
};

async function send(text) {
  sent = {question: state.question, text};
  await tried(() => ask("play/say", sent));
}

async function tried(work) {
  at("error").textContent = "";
  try {
    await work();
  } catch (error) {
    at("error").textContent = error.message;
  }
}

at("sit").addEventListener("click", () => tried(() => ask("play/sit", {alone: false})));
at("alone").addEventListener("click", () => tried(() => ask("play/sit", {alone: true})));
at("go").addEventListener("click", () => tried(() => ask("play/sit", {go: true})));
at("leave").addEventListener("click", () => {
  if (confirm("Leave this match? It will not count, for the others either.")) tried(() => ask("play/leave", {}));
});

// Who is writing, and roughly how many tokens. The text appears once the rules have accepted the reply.
function writing(seats) {
  const each = Object.entries(seats).map(([seat, tokens]) => `${seat} is writing…${tokens ? ` (more than ${tokens} tokens)` : ""}`);
  at("writing").textContent = state.phase === "wait" ? each.join(" ") : "";
}

function show(next) {
  if (next.phase === undefined) { writing(next.writing); return; }
  const before = state;
  state = next;
  const playing = ["ask", "wait"].includes(state.phase), ended = ["over", "lost", "idle"].includes(state.phase);
  const left = state.left_s < 600 ? ` You have ${Math.max(1, Math.round(state.left_s / 60))} min to answer.` : "";
  at("status").textContent = state.broken || SAYS[state.phase] + (state.phase === "lost" && state.why ? ` (${state.why})` : "") + left;
  document.title = state.phase === "ask" ? "● Your turn" : "parley";
  at("start").hidden = playing;
  at("match").hidden = !playing;
  at("over").hidden = state.phase !== "over";
  at("sit").hidden = !ended;
  at("sit").textContent = state.phase === "idle" ? "Sit down" : "Play again";
  at("alone").hidden = !(state.partner && !playing);
  at("go").hidden = state.phase !== "lobby";
  writing({});
  if (playing) match(before);
  if (state.phase === "over") over(state.over);
  if (!playing) { shown = ""; at("reply").replaceChildren(); }
}

function match(before) {
  const its = widget(state.game, state.seen), seen = state.seen || {};
  const board = its.board(seen);
  at("board").replaceChildren(...board);
  at("board").hidden = board.length === 0;
  at("aim").hidden = !state.aim;
  at("aim").textContent = state.aim || "";
  const rules = state.messages.filter((each) => each.who === "rules");
  const talk = state.messages.filter((each) => each.who !== "rules");
  at("rules").hidden = rules.length === 0;
  if (before.match !== state.match) at("rules").open = true;
  at("brief").textContent = rules.map((each) => each.text).join("\n\n");
  at("log").replaceChildren(...talk.map((each) => make("li", {class: each.who},
    make("span", {class: "who"}, each.who === "you" ? "you" : "message to you"), each.who === "you" ? its.shown(each.text) : each.text)));
  const again = state.kind === "retry" && state.phase === "ask";
  at("refused").hidden = !again;
  const why = its.why(seen.error) || (talk.length ? talk[talk.length - 1].text : "");
  at("refused").textContent = again ? `Your reply was not accepted: ${why}` : "";
  if (state.phase !== "ask") { shown = ""; at("reply").replaceChildren(); return; }
  if (shown === state.question) return;
  shown = state.question;
  at("reply").replaceChildren(...its.reply(seen, send));
  const field = at("reply").querySelector("textarea");
  if (field && (sent.question === state.question || again)) field.value = its.draft(sent.text);
  if (field) field.focus({preventScroll: true});
  at("status").scrollIntoView({block: "nearest"});
}

function over(found) {
  const its = (seen) => widget(state.game, seen);
  const mine = found.roles[found.you];
  const said = make("ol", {}, ...found.said.map(([seat, text]) => make("li", {}, make("strong", {}, `${seat}: `), its(mine && mine.seen).shown(text))));
  at("over").replaceChildren(
    make("h2", {}, `It ended with: ${found.outcome}`),
    ...(mine ? [make("p", {class: "big"}, `Your score: ${number(mine.payoff)}`)] : []),
    make("div", {class: "seats"}, ...Object.entries(found.roles).map(([seat, role]) => card(seat, role, its))),
    make("details", {class: "card"}, make("summary", {}, "All messages"), said),
  );
}

function card(seat, role, its) {
  const figures = Object.entries(role.metrics).map(([name, value]) => make("li", {}, `${name}: ${number(value)}`));
  return make("section", {class: "card"},
    make("h2", {}, `${seat} (${role.who})`),
    make("p", {}, `score ${number(role.payoff)}${role.outcome ? `, ${role.outcome}` : ""}`),
    ...its(role.seen).board(role.seen),
    ...(role.knew.length ? [make("details", {}, make("summary", {}, "The instructions of this seat"),
      make("div", {class: "text"}, role.knew.map((each) => each.text).join("\n\n")))] : []),
    ...(figures.length ? [make("details", {}, make("summary", {}, "Figures"), make("ul", {}, ...figures))] : []),
  );
}

function number(value) {
  return Number.isInteger(value) ? String(value) : Number(value).toFixed(2);
}

follow("play/events", show, (lost) => { if (lost) at("status").textContent = "The connection is lost: trying again…"; });
