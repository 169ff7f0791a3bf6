// Widgets: a game's board beside the conversation, and its input for replies, made only from the seat's observation.
import {make} from "./base.js";

// A widget: board(seen) -> elements; shown(text) -> a person's own reply as displayed; draft(text) -> text of a refused
// reply to put back into the field; why(error) -> the reason in plainer words, or "" for the game's own; reply(seen,
// send) -> input elements, which call send(text).
const plain = {
  board: () => [],
  shown: (text) => text,
  draft: (text) => text,
  why: () => "",
  reply: (seen, send) => (seen.legal ? choices(seen.legal, send) : [words("Your reply", "Send", send)]),
};

// A field of words with a button. Enter sends, Shift with Enter breaks the line.
function words(label, button, send, lines = 3) {
  const field = make("textarea", {rows: lines, name: "words", "aria-label": label, placeholder: label});
  const form = make("form", {}, field, make("p", {}, make("button", {type: "submit"}, button)));
  const go = () => { if (field.value.trim()) send(field.value.trim()); };
  form.addEventListener("submit", (event) => { event.preventDefault(); go(); });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); go(); }
  });
  return form;
}

// A button for each legal reply.
function choices(legal, send) {
  return [make("div", {class: "row"}, ...legal.map((text) => {
    const button = make("button", {type: "button", class: "second"}, text);
    button.addEventListener("click", () => send(text));
    return button;
  }))];
}

function labelled(label, field) {
  return make("label", {}, label, field);
}

const DEAL = {
  too_early: "say something before you propose",
  must_propose: "the other player has proposed, so you must propose, too",
  empty: "a message needs words",
  tags: "a message cannot hold [message] or [propose]",
};
const deal = {
  board: (seen) => {
    const rows = seen.items.map((item, at) => make("tr", {}, make("th", {scope: "row"}, item),
      make("td", {}, seen.counts[at]), make("td", {}, seen.values[at])));
    const head = make("tr", {}, make("th", {scope: "col"}, "item"), make("th", {scope: "col"}, "how many"),
      make("th", {scope: "col"}, "value of each to this seat"));
    return [make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))];
  },
  shown: (text) => text.replace(/^\s*\[message\]\s*/i, "").replace(/^\s*\[propose\]\s*/i, "Proposal for myself: "),
  draft: (text) => (/^\s*\[message\]/i.test(text) ? deal.shown(text) : ""),
  why: (error) => DEAL[error] || "",
  reply: (seen, send) => {
    const said = words("Your message", "Send", (text) => send(`[message] ${text}`));
    const fields = seen.items.map((item, at) => {
      const pick = make("select", {name: item});
      for (let count = 0; count <= seen.counts[at]; count += 1) pick.append(make("option", {value: count}, count));
      return labelled(item, pick);
    });
    const form = make("form", {}, make("fieldset", {}, make("legend", {}, "What you want for yourself"),
      make("div", {class: "row"}, ...fields), make("button", {type: "submit", class: "second"}, "Propose")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send(`[propose] ${seen.items.map((item) => `${item} ${form.elements[item].value}`).join(" ")}`);
    });
    return seen.partner_proposed ? [form] : [said, form];
  },
};

const taboo = {
  ...plain,
  board: (seen) => [
    ...(seen.word ? [make("p", {}, "The word: ", make("span", {class: "big"}, seen.word))] : []),
    ...(seen.turns_left ? [make("p", {class: "faint"}, `Turns left for this seat: ${seen.turns_left}`)] : []),
  ],
};

const KINDS = ["speak", "non-verbal communication", "action", "none", "leave"];
const SOCIAL = {"no argument": "say what you say or do", "no JSON": "", "no action": ""};
const social = {
  board: (seen) => [
    make("p", {}, "The character: ", make("strong", {}, seen.you)),
    make("p", {}, "The goal: ", make("span", {class: "text"}, seen.goal)),
  ],
  shown: (text) => {
    try {
      const done = JSON.parse(text);
      return done.action_type === "speak" ? done.argument : `[${done.action_type}] ${done.argument || ""}`;
    } catch {
      return text.replace(/^speak /, "");
    }
  },
  draft: (text) => social.shown(text).replace(/^\[[^\]]*\] ?/, ""),
  why: (error) => SOCIAL[error] || "",
  reply: (seen, send) => {
    const kind = make("select", {name: "kind"}, ...KINDS.map((each) => make("option", {value: each}, each)));
    const field = make("textarea", {rows: 3, name: "words", "aria-label": "What you say or do", placeholder: "What you say or do"});
    const form = make("form", {}, make("div", {class: "row"}, labelled("What do you do?", kind)), field,
      make("p", {}, make("button", {type: "submit"}, "Send")));
    const go = () => {
      const bare = ["none", "leave"].includes(kind.value), said = bare ? "" : field.value.trim().replace(/\s+/g, " ");
      send(seen.prompt === "compact" ? `${kind.value} ${said}`.trim() : JSON.stringify({action_type: kind.value, argument: said}));
    };
    form.addEventListener("submit", (event) => { event.preventDefault(); go(); });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); go(); }
    });
    return [form];
  },
};

const qa = {
  ...plain,
  board: (seen) => [make("p", {}, "The question: ", make("strong", {}, seen.question))],
  reply: (seen, send) => [words("Thought: …\nAction: …", "Send", send, 4)],
};

const GAMES = {deal, taboo, social, social_tiny: social, qa};

// The widget of a game if the observation has what it needs; else a text field.
export function widget(game, seen) {
  const found = GAMES[game] || plain;
  const needs = {deal: "items", social: "goal", social_tiny: "goal", qa: "question"}[game];
  return seen && (!needs || needs in seen) ? found : plain;
}
