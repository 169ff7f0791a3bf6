"""Sotopia's social role-play (Zhou et al. 2023, arXiv:2310.11667): characters with private goals act in turn.

A scenario is an environment with its characters; its cluster is the environment. The relationship determines what the
characters know of each other. A turn is an action: speak, non-verbal communication, action, none or leave. An illegal
reply is retried up to `retries` times, and then counts as none. With a `judge`, a service reads the whole episode at
its end and rates each character on the scales of a rubric.

Outcomes: left (fewer than two are still there), stale (nobody does anything), cap (all turns were used up), context (a
view outgrew its model; blames). Every payoff is 0: the judge's scores are metrics, which are absent without a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, Literal

from ...system.bounds import Count, PartShare, Whole
from ...system.files import InputError
from ..base import GeneratorMatch, Match, Request, Scenario, Script, Tool
from ..splits import SPLITS, belongs, chosen, fine, shuffled
from ..verdict import JUDGE, Rubric, dice
from . import records
from .people import Task
from .scene import Rules, Scene, facts
from .scripts import chatty


class Social:
    """The game, on Sotopia's records.

    path        a folder of records: characters, environments, pairs (`parley.games.social.records`)
    generated   a folder written by task=generate, with further tasks for the same characters: train and validation come
                from it alone, and the test from `path`
    named       lists of environments, by name; `lists` is a file of more (Sotopia-π's used_env.json)
    train, validation, test   the environments of a split: the name of a list, or a share of the unlisted ones; train
                has the rest (null). Environments in several lists are held out: test goes before validation
    prompt      chat, published (one message, written anew for each turn) or compact (few words, for tiny models)
    form        corrected, or faithful (strangers' knowledge and the end of an episode as of January 2024)
    order       round_robin (one after the other) or simultaneous
    turns       limit of turns; idle: more consecutive actions none end the episode
    retries     retry requests after an illegal reply
    judge       a rubric, {task, scales, overall}, for the service `judge`, which rates each episode at its end; {}: no
                judge
    split_seed  selects the held-out environments for shares
    """

    name = "social"
    version: int | str = 1

    def __init__(
        self,
        path: str,
        generated: str | None = None,
        named: Mapping[str, Sequence[str]] = {},
        lists: str | None = None,
        train: str | None = None,
        validation: str | PartShare = 0.1,
        test: str | PartShare = 0.2,
        prompt: Literal["chat", "published", "compact"] = "chat",
        form: Literal["corrected", "faithful"] = "corrected",
        order: Literal["round_robin", "simultaneous"] = "round_robin",
        turns: Count = 20,
        idle: Whole = 2,
        retries: Whole = 2,
        judge: Mapping[str, Any] = {},
        split_seed: int = 0,
    ) -> None:
        self.files = {key: each for key, each in (("path", path), ("generated", generated), ("lists", lists)) if each}
        if missing := [each for each in self.files.values() if not Path(each).exists()]:
            raise FileNotFoundError(f"there is no {missing[0]}: give a folder of Sotopia's records as game.path")
        self.named = {**named, **(records.lists(lists) if lists else {})}
        self.places = {"train": train, "validation": validation, "test": test}
        if strangers := [each for each in self.places.values() if isinstance(each, str) and each not in self.named]:
            raise InputError(
                f"there is no list {strangers[0]!r} of environments, known are {', '.join(self.named) or 'none'}"
            )
        self.rules = Rules(form, order, turns, idle, retries, prompt, Rubric.of(**judge) if judge else None)
        self.split_seed = split_seed
        self.services: Mapping[str, Script | Tool] = {JUDGE: Tool(_nobody)} if judge else {}
        # A missing folder is reported when scenarios are requested; a bad file now, not in the middle of a run.
        found = [each for pool in self._splits.values() for each in pool] if Path(path).is_dir() else []
        most = max((len(each.data["people"]) for each in found), default=2)
        self.roles = tuple(f"agent_{place + 1}" for place in range(most))
        self.facts = facts(self.rules, most)

    def seats(self, scenario: Scenario) -> tuple[str, ...]:
        """A seat for each character of the scenario."""
        return self.roles[: len(scenario.data["people"])]

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The pairs of a split's environments, shuffled by the split seed."""
        return chosen(self._splits, split, "give more environments, another list or other shares")

    @property
    def everything(self) -> list[Scenario]:
        """Every pair of `path`, in any split or none."""
        return self._pools[0][1]

    def match(self, scenario: Scenario, seed: int) -> Match:
        """A new match. The rules are deterministic; `seed` is unused."""
        return GeneratorMatch(Scene(self.rules, Task.from_json(scenario.data)).turns())

    def scripts(self) -> Mapping[str, Script]:
        """chatty says a few sentences and leaves; dice, as players.judge, rates at random."""
        return {"chatty": chatty, "dice": self._dice}

    def secrets(self, scenario: Scenario) -> Mapping[str, Sequence[str]]:
        """Each character's goal, its secret, and the facts hidden by the relationship."""
        task = Task.from_json(scenario.data)
        return {seat: task.hidden(place) for place, seat in enumerate(self.seats(scenario))}

    def _dice(self, request: Request, own: Random, persona: Random) -> str:
        return dice(self.rules.judge, request, own) if self.rules.judge and request.seat == JUDGE else ""

    @cached_property
    def _pools(self) -> list[tuple[str, list[Scenario]]]:
        """The scenarios of each folder of records."""
        path = self.files["path"]
        return [(each, records.scenarios(each, path)) for each in (path, self.files.get("generated")) if each]

    @cached_property
    def _splits(self) -> Mapping[str, tuple[Scenario, ...]]:
        path, generated = self.files["path"], self.files.get("generated")
        found: dict[str, dict[str, Scenario]] = {split: {} for split in SPLITS}
        for folder, pool in self._pools:
            for each in pool:
                split = self._place(each.cluster, held=generated is not None and folder == path)
                if split is not None:
                    found[split][each.id] = each
        return {split: tuple(each[name] for name in shuffled(each, self.split_seed)) for split, each in found.items()}

    def _place(self, environment: str, held: bool) -> str | None:
        """The split of an environment, or None. `held`: for the test only."""
        for split in ("test", "validation", "train"):
            name = self.places[split]
            if isinstance(name, str) and environment in self.named[name]:
                return split if split == "test" or not held else None
        shares = [0.0 if isinstance(share, str) else float(share or 0) for share in self.places.values()]
        if held:
            return None if isinstance(self.places["test"], str) else "test"
        test = 0.0 if "generated" in self.files else shares[2]
        split = belongs(fine(self.split_seed, environment), shares[1], test)
        return None if split == "train" and self.places["train"] is not None else split


def _nobody() -> Any:
    raise InputError("nobody judges: say players.judge=NAME, a name of `opponents` (opponents.NAME.model=…), or dice")
