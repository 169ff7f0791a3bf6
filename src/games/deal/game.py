"""Deal or No Deal in the modified rules of lm-selfplay (arXiv 2406.18872, after Lewis et al. 2017).

Two seats see the same books, hats and balls, and each its own values. `first` opens; they act in turn. An action is a
message (`[message] text`) or a private proposal of what the seat wants for itself (`[propose] books 2 hats 0 balls 1`).
After one seat has proposed, the other is told so, not what, and must propose; then the match is over. There is a deal
if the two proposals share out every item exactly; otherwise both seats get nothing. The first action cannot be a
proposal. What stands after an [END] is cut off, as in the original. An illegal reply is answered by up to `retries`
retry requests that quote the error; failed attempts stay in the seat's view, so a model is trained on the very context
in which it acted. After `max_actions` actions nobody gets
anything.

Outcomes: agreement, mismatch, abort (illegal replies; blames), cap, context (the view outgrew the model; blames).
The published fair coin for who opens is the draw of a scenario: the mirror image of each context is a scenario too.

Version history: 1 first; 2: a number with a point before it (.2) is no whole number, and texts are cut at [END].
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from ..base import (
    Facts,
    GeneratorMatch,
    Illegal,
    Match,
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
from ..splits import chosen, split
from . import contexts as tables
from .contexts import FULL_VALUE, ITEMS, Context
from .grammar import Fault, Proposed, Said, parse
from .guide import DealGuide
from .prompts import FORMS, Form, objective
from .scoring import METRICS, ROLES, Tally, result
from .scripts import SCRIPTS

PAYOFFS: Mapping[str, float] = {"self": 0.0, "coop": 1.0, "comp": -1.0}
_CEILINGS: Mapping[float, Mapping[str, str]] = {  # what `ceiling` bounds, at lambda 1 and 0
    1.0: {"joint_score": "ceiling", "payoff": "ceiling"},
    0.0: {"score": "ceiling", "payoff": "ceiling"},
}


class Deal:
    """The game. All contexts are made here, unless `contexts` names a file like the published selfplay.txt.

    payoff      self (own points), coop (both players' points), comp (own less the other's), or lambda in [-1, 1]
    prompt      compact (few words, for tiny models), full (instructions), published (what the original tells)
    counts      all 28 count vectors, or the 20 of the published file
    contexts    path of a file of contexts; both openers of each are played
    retries     retry requests that an illegal reply is given before the match is aborted
    max_actions accepted messages and proposals after which the match is over
    split_seed  decides which pairs of contexts are held out (80 % train, 10 % validation, 10 % test)
    """

    name = "deal"
    version = 2
    roles = ROLES

    def __init__(
        self,
        payoff: Literal["self", "coop", "comp"] | float = "coop",
        prompt: Literal["compact", "full", "published"] = "compact",
        counts: Literal["all", "published"] = "all",
        contexts: str | None = None,
        retries: int = 4,
        max_actions: int = 50,
        split_seed: int = 0,
    ) -> None:
        _refuse(payoff, prompt, counts, retries, max_actions)
        self.weight = PAYOFFS[payoff] if isinstance(payoff, str) else float(payoff)
        self.prompt = prompt
        self.form: Form = FORMS[prompt](self.weight)
        self.guide = DealGuide(self.weight)
        self.counts, self.contexts, self.split_seed = counts, contexts, split_seed
        self.files = {"contexts": contexts} if contexts is not None else {}
        self.retries, self.max_actions = retries, max_actions
        self.facts = Facts(
            min_return=FULL_VALUE * min(self.weight, 0.0),
            max_return=FULL_VALUE
            + (FULL_VALUE - 1) * max(self.weight, 0.0),  # an item is wanted by both: 10 to one is 9 to the other
            max_requests=max_actions * (1 + retries),
            max_retries=retries,
            zero_sum=self.weight == -1.0,
            metrics=METRICS,
            ceilings=_CEILINGS.get(self.weight, {}),
        )
        if contexts is not None:
            self._splits  # noqa: B018  (a bad file is reported now, not in the middle of a run)

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The ordered contexts of a split, shuffled by the split seed. A pair's place depends on nothing but itself and
        that seed, so what is held out of one set of contexts is held out of every other."""
        return chosen(self._splits, split, f"{self.contexts} has too few contexts, give more or another split_seed")

    def match(self, scenario: Scenario, seed: int) -> Match:
        """A new match, for the payoff that the scenario names, else the game's own. The rules need no chance, so `seed`
        changes nothing."""
        weight = self._weight(scenario)
        form = self.form if weight == self.weight else FORMS[self.prompt](weight)
        return GeneratorMatch(_Table(self, Context.of(scenario), weight, form).turns())

    def under(self, scenario: Scenario, payoff: str) -> Scenario:
        """The scenario for `payoff` (self, coop or comp), whose match is that of a game with this payoff."""
        found = Scenario(f"{scenario.id}:{payoff}", {**scenario.data, "payoff": payoff}, scenario.cluster)
        self._weight(found)
        return found

    def aim(self, scenario: Scenario) -> str:
        """What each player is after."""
        return f"Your aim: {objective(self._weight(scenario))}."

    def scripts(self) -> Mapping[str, Script]:
        """Negotiators of rising skill (naive, fair, skilled), and the demonstrator that tiny models learn from
        (demo)."""
        return SCRIPTS

    def _weight(self, scenario: Scenario) -> float:
        """Lambda in a match on this scenario. ValueError where it names a payoff that there is not."""
        if (name := scenario.data.get("payoff")) is None:
            return self.weight
        if not isinstance(name, str) or name not in PAYOFFS:
            raise ValueError(f"scenario {scenario.id!r} has payoff {name!r}, expected {', '.join(PAYOFFS)}")
        return PAYOFFS[name]

    @cached_property
    def _splits(self) -> Mapping[str, tuple[Scenario, ...]]:
        given = tables.generate() if self.contexts is None else tables.read(self.contexts)
        kept = [context for context in given if self.counts == "all" or tables.published_counts(context.counts)]
        orders = [order.scenario() for context in kept for order in (context, context.mirror())]
        both = {scenario.id: scenario for scenario in orders}
        splits = split({key: each.cluster for key, each in both.items()}, self.split_seed)
        return {name: tuple(both[key] for key in keys) for name, keys in splits.items()}


def _refuse(payoff: object, prompt: object, counts: object, retries: object, max_actions: object) -> None:
    """ValueError that names every argument that is wrong."""
    faults = []
    number = isinstance(payoff, int | float) and not isinstance(payoff, bool) and -1 <= payoff <= 1
    if not number and not (isinstance(payoff, str) and payoff in PAYOFFS):
        faults.append(f"payoff={payoff!r}, expected self, coop, comp or a number from -1 to 1")
    if prompt not in FORMS:
        faults.append(f"prompt={prompt!r}, expected {', '.join(FORMS)}")
    if counts not in ("all", "published"):
        faults.append(f"counts={counts!r}, expected all or published")
    for name, value, least in (("retries", retries, 0), ("max_actions", max_actions, 3)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            faults.append(f"{name}={value!r}, expected a whole number of at least {least}")
    if faults:
        raise ValueError("Deal: " + "; ".join(faults))


class _Table:
    """One match while it is played."""

    def __init__(self, game: Deal, context: Context, weight: float, form: Form) -> None:
        self.game, self.context, self.tally = game, context, Tally()
        self.weight, self.form = weight, form
        self.views = {}
        self.known: dict[str, dict[str, Any]] = {}
        for role, values in zip(ROLES, context.values, strict=True):
            self.views[role] = View(role, form.system(context.counts, values))
            self.known[role] = {"items": list(ITEMS), "counts": list(context.counts), "values": list(values)}
        self.history: dict[str, list[list[str]]] = {role: [] for role in ROLES}
        if form.opening:
            self.views[ROLES[0]].tell(form.opening)

    def turns(self) -> Turns:
        """The whole match, as `GeneratorMatch` runs it."""
        try:
            outcome = yield from self._play()
        except Out as out:
            return self._end(out.outcome, out.blame)
        return self._end(outcome)

    def _play(self) -> Generator[Request, Reply, Literal["settled", "cap"]]:
        for action in range(self.game.max_actions):
            seat, other = ROLES[action % 2], ROLES[1 - action % 2]
            move = yield from self._move(seat)
            self.tally.actions += 1
            if isinstance(move, Proposed):
                self.tally.shares[seat] = move.share
                if other in self.tally.shares:
                    return "settled"
                self.views[other].tell(self.form.proposed)
            else:
                self.views[other].tell(self.form.said(move.text))
                self.history[seat].append(["you", move.text])
                self.history[other].append(["partner", move.text])
        return "cap"

    def _move(self, seat: str) -> Generator[Request, Reply, Said | Proposed]:
        """A legal action of `seat`."""

        def judged(reply: Reply) -> Said | Proposed | Illegal:
            move = self._parse(reply)
            if not isinstance(move, Fault):
                return move
            self.tally.retries[seat] += 1
            return Illegal(move.reason, self.form.error(move.reason, self.context.counts))

        seen, options = self._observation(seat), self.form.options
        return legal(self.views[seat], judged, self.game.retries, self.tally.marks, seen, options)

    def _parse(self, reply: Reply) -> Said | Proposed | Fault:
        if reply.finish == "length":
            return Fault("length")
        if reply.finish == "refusal":
            return Fault("refusal")
        return parse(
            reply.text, self.context.counts, opened=bool(self.tally.actions), must_propose=bool(self.tally.shares)
        )

    def _observation(self, seat: str) -> dict[str, Any]:
        history = self.history[seat]
        return {
            **self.known[seat],
            "history": list(history),  # [who, text], who is you or partner; proposals are not in it
            "partner_proposed": bool(self.tally.shares),
            "own_actions": self.tally.actions // 2,
        }

    def _end(self, outcome: str, blame: tuple[str, ...] = ()) -> Result:
        return result(self.context, self.weight, self.tally, outcome, blame)
