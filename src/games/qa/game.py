"""Question answering with tools, after ReAct (arXiv:2210.03629) and FireAct (arXiv:2310.05915).

Each reply is a thought and an action. An action calls a tool, whose observation the agent gets next, or ends the match
with an answer (`finish[…]`). A reply outside the grammar is retried up to `retries` times. After `steps` actions
without an answer the match is over. No view contains the gold answers or the reward.

Outcomes: right, wrong, unfinished (no answer within `steps`), broken (illegal replies; blames), context (a view outgrew
the model; blames). The payoff is the reward of the answer; without an answer it is 0 and counts in every mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ...system.seeds import rng
from ..base import (
    Facts,
    GeneratorMatch,
    Json,
    Marks,
    Match,
    Message,
    Options,
    Out,
    Reply,
    Request,
    Result,
    Scenario,
    Script,
    Turns,
    View,
    legal,
)
from .grammar import FINISH, STOP, Action, parse
from .prompts import LAYOUTS, WORDINGS, Layout, Wording, opening
from .questions import Questions
from .scoring import TASKS, Form
from .tools import AgentTool, Engine, Search

AGENT, SEARCH = "agent", "search"
NOTHING = "None"  # the observation if nothing was found, as published
METRICS: Mapping[str, str] = {
    "em": "the task's reward: 1 for the right answer (exact match), 0 without an answer",
    "f1": "word F1 of the answer; absent for yes/no questions and multiple choice",
    "finished_rate": "1 if an answer was given",
    "searches": "observations that tools gave",
    "tool_empty_rate": "share of them that say nothing was found; absent without any",
    "steps": "legal actions",
    "retries": "illegal replies of the seat",
    "invalid_rate": "1 if illegal replies or a view that outgrew the model ended the match",
}


class QA:
    """The game.

    questions     the source: `FileQuestions`, `TwoHop`, or your own object; with several tasks, metrics are also given
                  by task (`strategyqa.em`)
    search        the engine of the tool search, with `corpus`, `memo`, `url`, `count` and `limits` (see `Search`)
    tools         further tools by name (`AgentTool`)
    steps         limit of actions, the answer included
    retries       retry requests after an illegal reply
    observation   maximum characters of an observation; its white space is folded into one line
    prompt        compact, full, published; layout: chat, alpaca, few_shot (see `prompts`)
    form          rewards of strategyqa and mmlu: corrected (whole words) or faithful (prefixes)
    unrelated     for evaluation: every tool call uses another question than the agent's, drawn by the match's seed
    """

    name = "qa"
    version = 1
    roles = (AGENT,)

    def __init__(
        self,
        questions: Questions,
        search: Engine = "documents",
        corpus: str | None = None,
        memo: str | None = None,
        url: str | None = None,
        count: int = 1,
        limits: Mapping[str, float | None] | None = None,
        tools: Mapping[str, AgentTool] | None = None,
        steps: int = 11,
        retries: int = 1,
        observation: int = 500,
        prompt: Wording = "full",
        layout: Layout = "chat",
        form: Form = "corrected",
        unrelated: bool = False,
    ) -> None:
        _refuse(count, steps, retries, observation, prompt, layout, form, tools or {})
        self.questions, self.steps, self.retries, self.longest = questions, steps, retries, observation
        self.tools: dict[str, AgentTool] = {SEARCH: Search(search, corpus, memo, url, count, limits), **(tools or {})}
        self.services = {name: tool.service for name, tool in self.tools.items()}
        self.prompt, self.layout, self.form, self.unrelated = prompt, layout, form, unrelated
        self.files = dict(questions.files)
        for name, tool in self.tools.items():
            self.files |= {f"{name}.{key}": path for key, path in getattr(tool, "files", {}).items()}
        by_task = {f"{task}.{name}": text for task in TASKS for name, text in METRICS.items()}
        self.facts = Facts(
            min_return=0.0, max_return=1.0, max_requests=steps * (2 + retries), max_retries=retries,
            metrics={**METRICS, **by_task},
        )  # fmt: skip

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The questions of a split."""
        return self.questions.scenarios(split)

    def match(self, scenario: Scenario, seed: int) -> Match:
        """A new match; `seed` only draws the question of unrelated observations."""
        data = scenario.data
        if data.get("task") not in TASKS or not data.get("answers"):
            raise ValueError(f"scenario {scenario.id!r} is no question: expected task, question and answers")
        return GeneratorMatch(_Table(self, scenario, seed).turns())

    def scripts(self) -> Mapping[str, Script]:
        """The scripts of the questions' source."""
        return self.questions.scripts()


@dataclass(slots=True)
class _Table:
    """One match in progress."""

    game: QA
    scenario: Scenario
    seed: int
    answer: str | None = None
    counts: Counter[str] = field(default_factory=Counter)
    marks: Marks = field(default_factory=dict)

    def turns(self) -> Turns:
        """The whole match, as `GeneratorMatch` runs it."""
        try:
            yield from self._play()
        except Out as out:
            return self._result("broken" if out.outcome == "abort" else out.outcome, out.blame)
        return self._result("unfinished" if self.answer is None else "")

    def _play(self) -> Generator[Request, Reply, None]:
        game, data = self.game, self.scenario.data
        says = {name: tool.says for name, tool in game.tools.items()}
        system, first = opening(data["question"], data["task"], says, game.prompt, game.layout)
        view, history = View(AGENT, system), list[list[str]]()
        view.tell(first)
        for _ in range(game.steps):
            seen = {"question": data["question"], "history": [*history]}
            action: Action = yield from legal(
                view, partial(parse, tools=game.tools), game.retries, self.marks, seen, Options(stop=(STOP,))
            )
            self.counts["steps"] += 1
            if action.name == FINISH:
                self.answer = action.argument
                return
            observation = yield from self._observed(action)
            history.append([action.name, action.argument, observation])
            view.tell(f"Observation: {observation}")

    def _observed(self, action: Action) -> Generator[Request, Reply, str]:
        """A tool's observation, in one line."""
        self.counts["calls"] += 1
        asked, about = action.argument, self.scenario
        if self.game.unrelated:
            about = self._other()
            asked = about.data["question"]
        seen: dict[str, Json] = {"argument": asked, "documents": list(about.data.get("documents", []))}
        name = f"{action.name}.{self.counts['calls']}"
        reply = yield Request(name, action.name, (Message("user", asked),), "tool", observation=seen)
        if reply.finish == "context":
            raise Out("context", action.name)
        text = " ".join(reply.text.split())[: self.game.longest].rstrip()
        self.counts["empty"] += text in ("", NOTHING)
        return text or NOTHING

    def _other(self) -> Scenario:
        """Another question than this one, for unrelated observations."""
        pool = self.game.scenarios("train")
        chance = rng(self.seed, "unrelated", self.counts["calls"])
        found = next((each for each in chance.sample(pool, min(9, len(pool))) if self._differs(each)), None)
        return pool[0] if found is None else found

    def _differs(self, other: Scenario) -> bool:
        return all(other.data[key] != self.scenario.data[key] for key in ("question", "answers"))

    def _result(self, outcome: str, blame: tuple[str, ...] = ()) -> Result:
        data, calls = self.scenario.data, self.counts["calls"]
        scores = TASKS[data["task"]].score(self.answer, data["answers"], self.game.form)
        found: dict[str, float] = {
            **scores,
            "finished_rate": float(self.answer is not None),
            "searches": float(calls),
            **({"tool_empty_rate": self.counts["empty"] / calls} if calls else {}),
            "steps": float(self.counts["steps"]),
            "retries": float(len(self.marks)),
            "invalid_rate": float(bool(blame)),
        }
        several = len(self.game.questions.tasks) > 1
        by_task = {f"{data['task']}.{name}": value for name, value in found.items() if several}
        told = outcome or ("right" if scores["em"] else "wrong")
        return Result({AGENT: scores["em"]}, told, blame=blame, metrics=found | by_task, marks=self.marks)


def _refuse(
    count: Any,
    steps: Any,
    retries: Any,
    observation: Any,
    prompt: str,
    layout: str,
    form: str,
    tools: Mapping[str, Any],
) -> None:
    """ValueError that names every invalid argument."""
    numbers = (("count", count, 1), ("steps", steps, 1), ("retries", retries, 0), ("observation", observation, 1))
    words = (("prompt", prompt, WORDINGS), ("layout", layout, LAYOUTS), ("form", form, ("corrected", "faithful")))
    faults = [
        f"{name}={value!r}, expected a whole number of at least {least}"
        for name, value, least in numbers if not isinstance(value, int) or isinstance(value, bool) or value < least
    ]  # fmt: skip
    faults += [f"{name}={value!r}, expected {', '.join(known)}" for name, value, known in words if value not in known]
    taken = {AGENT, SEARCH, FINISH}
    faults += [
        f"tools.{name}: the name is taken or no word" for name in tools if name in taken or not name.isidentifier()
    ]
    faults += [f"tools.{name} has no says or no service" for name, tool in tools.items() if not _is_tool(tool)]
    if faults:
        raise ValueError("qa: " + "; ".join(faults))


def _is_tool(tool: Any) -> bool:
    return isinstance(getattr(tool, "says", None), str) and hasattr(tool, "service")
