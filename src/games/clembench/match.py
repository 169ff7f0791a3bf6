"""One match of a clembench game: clemcore's own loop, suspended in a greenlet while a player answers.

So messages, events and scores equal those of clemcore's own runner, even if a game master asks a player inside a step.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from ..base import Facts, Json, Marks, Message, Request, Result, Scenario, Turns
from ..isolation import Enclosure, Overrun
from .library import library

METRICS = {
    "main_score": "clemcore's Main Score, 0 to 100; 0 in a match that was aborted, cut off or failed",
    "quality": "the same among matches that were played to their end",
    "played_rate": "1 if the match was played to its end: no reply of a player aborted it",
    "success_rate": "1 if the goal was reached",
    "lose_rate": "1 if it was not, though the match was played to its end",
    "aborted_rate": "1 if a reply that could not be read, or broke the rules, ended the match",
    "retry_rate": "replies of the seat that were asked for again",
    "turns": "replies of the match, probes included",
    "cut_rate": "1 if the match was cut off at max_requests",
    "crash_rate": "1 if the game master failed",
}
REFUSED = {name: "Error: " for name in ("wordle", "wordle_withclue", "wordle_withcritic")}
"""Prefixes of the internal notes by which game masters with retries record a refused reply: game -> prefix."""
BEFORE_ROUND_0 = ("privateshared",)
"""Games whose master asks a player before the first round, which clemcore's counter does not support."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a match. `aborted`: the return of all seats in an aborted match."""

    benchmark: Any
    game: str
    models: tuple[str, ...]  # the seat of each of the game's models
    roles: tuple[str, ...]
    facts: Facts
    cpu_s: float
    aborted: float


@dataclass
class Records:
    """The contents of clemcore's recorders after a match, in the format of its files."""

    interactions: dict[str, Any]
    calls: dict[str, Any]  # player's name -> its recorder
    scores: dict[str, Any] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)  # player's name -> seat; programmatic players have none


class Table:
    """One match in progress. `records` is complete when it is over."""

    def __init__(
        self, rules: Rules, scenario: Scenario, experiment: Mapping[str, Json], instance: Mapping[str, Json], seed: int
    ) -> None:
        self.rules, self.scenario = rules, scenario
        self.experiment, self.instance = experiment, instance
        self.chance = Enclosure(seed, rules.cpu_s)
        self.own: dict[str, list[tuple[str, str]]] = {role: [] for role in rules.roles}  # (request id, reply)
        self.count = dict.fromkeys(rules.roles, 0)
        self.retried = dict.fromkeys(rules.roles, 0)
        self.marks: Marks = {}
        self.turns = 0
        self.last = ""  # the seat that replied last

    def play(self) -> Turns:
        """The whole match, as `GeneratorMatch` runs it."""
        loop = library().greenlet(self._loop)
        outcome, blame, told = "", "", ""
        try:
            asked, retry = self.chance.run(loop.switch), False
            while asked is not None:
                if self.turns == self.rules.facts.max_requests:
                    outcome = "cut"
                    break
                seat, messages, aside = asked
                request = self._request(seat, messages, "probe" if aside else "retry" if retry else "act")
                reply = yield request
                self.turns, self.last = self.turns + 1, request.seat
                if reply.finish == "context":
                    outcome, blame = "context", request.seat
                    break
                if request.kind != "probe":
                    self.own[request.seat].append((reply.id, reply.text))
                noted = self._notes()
                asked = self.chance.run(partial(loop.switch, reply.text))
                retry = self._retried(reply.id, asked, noted)
        except Overrun:
            outcome, told = "crash", f"the game master took more than {self.rules.cpu_s:g} CPU-seconds for one turn"
        except Exception as error:  # foreign code may raise anything
            line = f"{type(error).__name__}: {error}".partition("\n")[0]
            outcome, told = "crash", f"the game master raised {line[:200]}"
        finally:
            with suppress(Exception):  # foreign code may fail at its end, too
                loop.throw()
        if told:
            warnings.warn(f"{self.scenario.id}: {told}", stacklevel=2)
        return self._stopped(outcome, blame) if outcome else self._scored()

    def _loop(self) -> None:
        """clemcore's loop over one instance, with the recorders that its runner registers."""
        clem = library()
        models = [_asking()(seat) for seat in self.rules.models]
        self.master = master = self.rules.benchmark.create_game_master(dict(self.experiment), models)
        master.setup(**json.loads(json.dumps(self.instance)))
        players = master.get_players()
        for player in players:
            if isinstance(player.model, _asking()):
                player.model.player = player
        self.records = self._recorded(clem, master, players)
        if self.rules.game in BEFORE_ROUND_0 and getattr(master, "current_round", 0) == -1:
            _counted_from_0(master)
        master.before_game()
        done = False
        while not done:
            player = master.current_player
            done, _ = master.step(player(master.get_context_for(player)))

    def _recorded(self, clem: Any, master: Any, players: Sequence[Any]) -> Records:
        game, experiment, number = self.rules.game, self.experiment["name"], self.instance["game_id"]
        self.recorder = recorder = clem.Interactions(game, experiment, number, "parley", [])
        for player in players:
            recorder.log_player(player.name, player.game_role, player.model.name)
        master.register(recorder)
        calls, roles = {}, {}
        for player in players:
            calls[player.name] = clem.Calls(
                game, experiment_name=experiment, game_id=number, player_name=player.name,
                game_role=player.game_role, model_name=player.model.name,
            )  # fmt: skip
            master.register(calls[player.name])
            player.register(calls[player.name])
            if seat := getattr(player.model, "seat", ""):
                roles[player.name] = seat
        return Records(recorder.interactions, calls, {}, roles)

    def _request(self, seat: str, messages: Sequence[Mapping[str, str]], kind: str) -> Request:
        """The view as clemcore's backends see it; the seat's own replies are recognised by their text."""
        own, place, shown = self.own[seat], 0, list[Message]()
        for message in messages:
            speaker, text, request = message["role"], message["content"], None
            if speaker == "assistant":
                found = next((at for at in range(place, len(own)) if own[at][1] == text), None)
                if found is not None:
                    request, place = own[found][0], found + 1
            if shown and shown[-1].role == speaker:  # consecutive messages are joined, as chat templates require
                shown[-1] = Message(speaker, f"{shown[-1].content}\n\n{text}", shown[-1].request)
            else:
                shown.append(Message(speaker, text, request))  # type: ignore[arg-type]
        self.count[seat] += 1
        return Request(f"{seat}.{self.count[seat]}", seat, tuple(shown), kind)

    def _notes(self) -> tuple[int, int]:
        """(number of refused replies by the master's counter, number of its notes on refusals)."""
        beginning = REFUSED.get(self.rules.game)
        events = [event for turn in self.records.interactions["turns"] for event in turn]
        notes = [str(event["action"].get("content")) for event in events if event["from"] == event["to"] == "GM"]
        violated = self.recorder.violated_requests_counts
        return sum(violated), sum(note.startswith(beginning) for note in notes if beginning)

    def _retried(self, reply: str, asked: Any, noted: tuple[int, int]) -> bool:
        """Whether the reply was refused, and the same seat gets a retry."""
        again = asked is not None and asked[0] == self.last and not asked[2] and self._notes() > noted
        if again:
            self.marks[reply] = {"retry": "refused"}
            self.retried[self.last] += 1
        return again

    def _scored(self) -> Result:
        """The result by the game's own scorer; if it fails, by the game master's state."""
        try:
            self.records.scores = self.chance.run(self._scores)
        except (Exception, Overrun) as error:
            line = f"{type(error).__name__}: {error}".partition("\n")[0]
            warnings.warn(f"{self.scenario.id}: the scorer raised {line[:200]}", stacklevel=2)
        found = self.records.scores.get("episode scores", {})
        said = getattr(getattr(self.master, "state", None), "outcome", None)
        word = str(getattr(said, "value", "")) if getattr(said, "is_terminal", False) else ""
        if found:
            word = (
                "aborted"
                if _number(found.get("Aborted"))
                else "success"
                if _number(found.get("Success"))
                else "failure"
            )
        score = _number(found.get("Main Score"))
        blame = (self.last,) if word == "aborted" else ()
        worth = self.rules.aborted if blame else score / 100
        return self._result(word or "unscored", blame, worth, score)

    def _scores(self) -> dict[str, Any]:
        scorer = self.rules.benchmark.create_game_scorer(dict(self.experiment), dict(self.instance))
        scorer.compute_scores(json.loads(json.dumps(self.records.interactions)))
        scores: dict[str, Any] = scorer.scores
        return scores

    def _stopped(self, outcome: str, blame: str) -> Result:
        return self._result(outcome, (blame,) if blame else (), 0.0, 0.0)

    def _result(self, outcome: str, blame: tuple[str, ...], worth: float, score: float) -> Result:
        roles = self.rules.roles
        side = {"success": "win", "failure": "loss", "aborted": "void"}.get(outcome, outcome)
        played = outcome in ("success", "failure")
        metrics: dict[str, float | Mapping[str, float]] = {
            "main_score": score,
            "played_rate": float(played),
            "success_rate": float(outcome == "success"),
            "lose_rate": float(outcome == "failure"),
            "aborted_rate": float(outcome == "aborted"),
            "retry_rate": {role: float(count) for role, count in self.retried.items()},
            "turns": float(self.turns),
            "cut_rate": float(outcome == "cut"),
            "crash_rate": float(outcome in ("crash", "unscored")),
        }
        metrics |= {"quality": score} if played else {}
        return Result(dict.fromkeys(roles, worth), outcome, dict.fromkeys(roles, side), blame, metrics, self.marks)


@cache
def _asking() -> Any:
    """A clemcore model class that gets its replies from a seat's player, by switching out of the loop."""
    clem = library()

    class Asking(clem.Model):  # type: ignore[misc, name-defined]
        def __init__(self, seat: str) -> None:
            super().__init__(clem.ModelSpec(model_name=seat, backend="parley"))
            self.seat, self.player = seat, None

        def generate_response(self, messages: list[dict[str, str]]) -> tuple[Any, Any, str]:
            aside = self.player is not None and len(self.player.get_perspective()) < len(messages)
            text = clem.current().parent.switch((self.seat, [dict(each) for each in messages], aside))
            return list(messages), {"text": text}, text

        def reset(self) -> None:
            pass

    return Asking


def _counted_from_0(master: Any) -> None:
    """What is asked before the first round is round 0, and the first round is 1."""
    before = master._on_before_game

    def counted() -> None:
        master.current_round = 0
        before()
        master.current_round = 0  # clemcore adds 1 as the first round begins

    master._on_before_game = counted


def _number(value: object) -> float:
    """`value` if it is a finite number, else 0 (clemcore's NaN means that a match was not played)."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
