"""A small game with every kind of move, and players that answer late, shuffled, wrongly or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from parley.games.base import Facts, GeneratorMatch, Options, Reply, Request, Result, Scenario, View
from parley.play.player import Completion, Prompt


class Bids:
    """Both seats bid at once, `rounds` times; then the one whom the seed chose says who won, with one retry."""

    name, version, roles = "bids", 3, ("ann", "bob")
    facts = Facts(-1.0, 1.0, 20, 1, zero_sum=True)

    def scenarios(self, split: str = "train", count: int = 12) -> list[Scenario]:
        return [Scenario(f"{split}-{n}", {"rounds": n % 4}, f"{split}-{n // 2}") for n in range(count)]

    def match(self, scenario: Scenario, seed: int) -> GeneratorMatch:
        return GeneratorMatch(self._turns(scenario.data["rounds"], Random(seed).choice(self.roles)))

    def scripts(self) -> dict[str, Callable[[Request, Random, Random], str]]:
        return {"random": lambda request, own, persona: f"{own.randrange(100)} from {persona.randrange(1000)}"}

    def _turns(self, rounds: int, judge: str):
        views = {role: View(role, f"You are {role}.") for role in self.roles}
        lead, marks = 0, {}
        for number in range(rounds):
            for role in self.roles:
                views[role].tell(f"Round {number}: bid.")
            replies: list[Reply] = yield [views[role].ask(observation={"round": number}) for role in self.roles]
            bids = []
            for role, reply in zip(self.roles, replies, strict=True):
                views[role].hear(reply)
                bids.append(int("0" + "".join(char for char in reply.text.split(" ")[0] if char.isdecimal())))
            lead += (bids[0] > bids[1]) - (bids[0] < bids[1])
        if rounds == 3:  # a match may end with its simultaneous moves
            return Result({"ann": 0.0, "bob": 0.0}, "unjudged", metrics={"lead": float(lead)})
        views[judge].tell("Who won?")
        for kind in ("act", "retry"):
            reply = yield views[judge].ask(kind, Options(max_tokens=3))
            views[judge].hear(reply)
            if reply.finish == "context":
                return Result({"ann": 0.0, "bob": 0.0}, "context", blame=(judge,))
            if reply.text[:1] in "0123456789":
                break
            marks[reply.id] = {"retry": "no number"}
            views[judge].tell("Say a number.")
        sign = float((lead > 0) - (lead < 0))
        return Result({"ann": sign, "bob": -sign}, "won" if sign else "tie", metrics={"lead": float(lead)}, marks=marks)


class Late:
    """Answers with a text of the prompt's own seed; everything about *when* is at random: batches, order, waiting."""

    busy = False

    def __init__(self, when: int, broken: Callable[[Prompt], bool] = lambda prompt: False) -> None:
        self.when, self.broken = Random(when), broken
        self.open: dict[str, Prompt] = {}
        self.waits: list[float] = []
        self.cancelled: list[str] = []
        self.forgotten: list[str] = []

    def submit(self, prompts: Sequence[Prompt]) -> None:
        assert prompts and not self.open.keys() & {prompt.id for prompt in prompts}
        self.open.update((prompt.id, prompt) for prompt in prompts)

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        self.waits.append(wait_s)
        chosen = self.when.sample(sorted(self.open), self.when.randint(0, len(self.open)))
        return [self.answer(self.open.pop(prompt)) for prompt in chosen]

    def answer(self, prompt: Prompt) -> Completion:
        if self.broken(prompt):
            return Completion(prompt.id, "connection reset", "error")
        return Completion(prompt.id, f"{prompt.seed % 100}", token_ids=(1, 2), policy="v7")

    def cancel(self, ids: Sequence[str]) -> None:
        self.cancelled.extend(ids)
        for prompt in ids:
            self.open.pop(prompt, None)

    def forget(self, streams: Sequence[str]) -> None:
        self.forgotten.extend(streams)

    def close(self) -> None:
        self.open.clear()
