// A study: shows the present step, sends the answer, shows the next step.
import {ask, at, home, make} from "./base.js";

const TITLES = {
  consent: "Consent", instructions: "Instructions", questions: "Questions", attention: "A question", rate: "Rate",
  vote: "Compare", play: "Play", done: "Thank you", failed: "The study is over", refused: "You did not agree",
};

const paragraphs = (text) => text.split(/\n\s*\n/).map((each) => make("p", {class: "text"}, each.trim()));
const button = (text, value, second = false) => make("button", {value, class: second ? "second" : null}, text);
const buttons = (...all) => make("div", {class: "buttons"}, ...all);
const words = (name) => name.replaceAll("_", " ");

function question({ask: text, options}, number) {
  const rows = options.map((option, value) =>
    make("label", {class: "option"}, make("input", {type: "radio", name: `q${number}`, value, required: true}), option));
  return make("fieldset", {}, make("legend", {}, text), ...rows);
}

function scale(subject, {name, low, high, says}) {
  const whole = Number.isInteger(low) && Number.isInteger(high) && high - low <= 30;
  const each = whole ? Array.from({length: high - low + 1}, (_, step) => low + step) : [];
  const chosen = whole
    ? make("select", {required: true}, make("option", {value: ""}, "choose"), ...each.map((value) => make("option", {value}, value)))
    : make("input", {type: "number", min: low, max: high, step: "any", required: true});
  chosen.dataset.subject = subject;
  chosen.dataset.scale = name;
  const text = make("span", {}, make("b", {}, words(name)), ` (${low} to ${high}) `, make("span", {class: "faint"}, says));
  return make("label", {class: "scale"}, text, chosen);
}

const SHOW = {
  consent: ({text, box}) => [
    ...paragraphs(text),
    ...(box ? [make("label", {class: "option"}, make("input", {type: "checkbox", id: "training"}), box)] : []),
    buttons(button("I agree", "agree"), button("I do not agree", "refuse", true)),
  ],
  instructions: ({text}) => [...paragraphs(text), buttons(button("I have read this", "read"))],
  questions: ({questions, again}) => [
    ...(again ? [make("p", {class: "bad"}, "Not all answers were right. Please try again.")] : []),
    ...questions.map(question),
    buttons(button("Send", "questions")),
  ],
  attention: ({questions}) => [...questions.map(question), buttons(button("Send", "attention"))],
  rate: ({text, subjects, scales}) => [
    make("div", {class: "card text"}, text),
    ...subjects.map((subject) =>
      make("fieldset", {}, make("legend", {}, subject), ...scales.map((each) => scale(subject, each)))),
    buttons(button("Send", "rate")),
  ],
  vote: ({ask: text, left, right}) => [
    make("div", {class: "sides"},
      make("section", {class: "card"}, make("h2", {}, "Left"), make("div", {class: "text"}, left)),
      make("section", {class: "card"}, make("h2", {}, "Right"), make("div", {class: "text"}, right))),
    make("p", {}, text),
    buttons(button("Left", "left"), button("Right", "right"), button("Equally good", "tie", true), button("Both bad", "both_bad", true)),
  ],
  play: () => [make("p", {}, make("a", {href: `${home}play`}, "Go to the table"))],
  failed: () => [make("p", {}, "Thank you for coming. Your answers do not allow you to go on.")],
  refused: () => [
    make("p", {}, "You did not agree, so nothing more is asked. You may close this page."),
    buttons(button("I agree after all", "again", true)),
  ],
  done: ({pay, code, url, platform, person}) => [
    ...(pay.base || pay.bonus ? [make("p", {}, `You earned ${pay.base.toFixed(2)} and a bonus of ${pay.bonus.toFixed(2)} ${pay.currency}.`)] : []),
    ...(code ? [make("p", {}, "Your completion code is ", make("b", {}, code), ".")] : []),
    ...(url ? [make("p", {}, make("a", {href: url, rel: "noreferrer"}, "Complete the study"))] : []),
    ...(platform ? [buttons(button("Submit", "submit"))] : []),
  ],
};

const chosen = () => [...at("form").querySelectorAll("fieldset")].map((each) => Number(each.querySelector("input:checked").value));

function rated() {
  const found = {};
  for (const each of at("form").querySelectorAll("[data-scale]")) {
    (found[each.dataset.subject] ??= {})[each.dataset.scale] = Number(each.value);
  }
  return found;
}

// The request of a button, as [path, body].
function answer(value, now) {
  switch (value) {
    case "agree": return ["consent", {agree: true, training: Boolean(at("training")?.checked)}];
    case "refuse": return ["consent", {agree: false}];
    case "read": return ["read", {}];
    case "questions": case "attention": return [value, {given: chosen()}];
    case "rate": return ["rate", {item: now.item, scores: rated()}];
    default: return ["vote", {item: now.item, vote: value}];
  }
}

// Ends the study on a platform that expects a form: MTurk's, with the assignment from the person's link.
function submit({platform, code, person}) {
  const given = {assignmentId: new URLSearchParams(location.search).get("assignmentId") || "", code, person};
  const form = make("form", {method: "post", action: `${platform}/mturk/externalSubmit`});
  form.append(...Object.entries(given).map(([name, value]) => make("input", {type: "hidden", name, value})));
  document.body.append(form);
  form.submit();
}

let now = {};
function show(next) {
  now = next;
  at("title").textContent = TITLES[now.step];
  at("told").textContent = now.told ? `Left was ${now.told.left}; right was ${now.told.right}.` : "";
  at("form").replaceChildren(...SHOW[now.step](now));
  document.querySelector("main").classList.toggle("wide", now.step === "vote");
  scrollTo(0, 0);
  at("title").focus({preventScroll: true});
}

at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const value = event.submitter.value;
  at("error").textContent = "";
  if (value === "submit") return submit(now);
  if (value === "again") return show({...now, step: "consent"});
  event.submitter.disabled = true;
  try {
    const [path, body] = answer(value, now);
    show(await ask(`study/${path}`, body));
  } catch (error) {
    at("error").textContent = error.message;
    event.submitter.disabled = false;
  }
});

try {
  show(await ask("study/step"));
} catch (error) {
  at("error").textContent = error.message;
}
