"""The kit passes good games and names the one promise that a broken game breaks."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import pytest
from parley.games import conformance
from parley.games.base import Facts, GeneratorMatch, Options, Reply, Request, Result, Scenario, Turns, View
from parley.games.deal import Deal


class Sums:
    """Each of two seats holds a secret number; after one round of talk, both guess the sum at once. A guess that is no
    number may be sent once more."""

    name, version = "sums", 1
    roles: tuple[str, ...] = ("left", "right")
    facts = Facts(min_return=0.0, max_return=1.0, max_requests=6, max_retries=1)

    def scenarios(self, split: str) -> Sequence[Scenario]:
        start = ("train", "validation", "test").index(split) * 4
        return [Scenario(f"{a}+{b}", {"left": a, "right": b}) for a in range(start, start + 4) for b in range(20, 24)]

    def match(self, scenario: Scenario, seed: int) -> GeneratorMatch:
        return GeneratorMatch(self.turns(scenario.data, seed))

    def scripts(self):
        return {"honest": self.honest}

    @staticmethod
    def honest(request: Request, rng: Random, persona: Random) -> str:
        assert request.observation is not None
        heard = [
            int(word)
            for message in request.messages
            for word in message.content.split()
            if word.isascii() and word.isdigit()
        ]
        return str(sum(heard[:2])) if request.observation["guess"] else str(request.observation["own"])

    def views(self, data: Mapping[str, int]) -> dict[str, View]:
        return {role: View(role, f"yours {data[role]}") for role in self.roles}

    def turns(self, data: Mapping[str, int], seed: int) -> Turns:
        views, marks = self.views(data), {}
        for role, other in (self.roles, self.roles[::-1]):
            reply = yield views[role].ask(observation={"own": data[role], "guess": False})
            if reply.finish == "context":
                return self.over(data, {}, blame=(role,))
            views[role].hear(reply)
            views[other].tell(f"they say {reply.text}")
        guesses: dict[str, int] = {}
        for kind in ("act", "retry"):
            asked = [role for role in self.roles if role not in guesses]
            replies = yield [views[role].ask(kind, observation={"own": data[role], "guess": True}) for role in asked]
            for role, reply in zip(asked, replies, strict=True):
                if reply.finish == "context":
                    return self.over(data, {}, blame=(role,))
                views[role].hear(reply)
                if self.legal(reply.text):
                    guesses[role] = int(reply.text)
                else:
                    views[role].tell("a number please")
                    marks[reply.id] = {"retry": "number"}
            if len(guesses) == 2:
                break
        return self.over(data, guesses, marks)

    def legal(self, text: str) -> bool:
        return text.isascii() and text.isdigit() and len(text) < 9

    def over(
        self, data: Mapping[str, int], guesses: Mapping[str, int], marks=None, blame: tuple[str, ...] = ()
    ) -> Result:
        right = {role: float(guesses.get(role) == data["left"] + data["right"]) for role in self.roles}
        return Result(
            right, "context" if blame else "guessed", blame=blame, metrics={"right": right}, marks=marks or {}
        )


class Raises(Sums):
    def legal(self, text):
        return int(text) >= 0  # ValueError for words


class RetriesForEver(Sums):
    facts = Facts(0.0, 1.0, max_requests=40, max_retries=1)

    def turns(self, data, seed):
        view, marks = View("left", "a number please"), {}
        for attempt in range(6):
            reply = yield view.ask("retry" if attempt else "act", observation={"own": 1, "guess": False})
            if reply.finish == "context":
                return self.over(data, {}, blame=("left",))
            view.hear(reply)
            if self.legal(reply.text):
                break
            marks[reply.id] = {"retry": "number"}
            view.tell("a number please")
        return self.over(data, {}, marks)

    roles = ("left",)

    def scripts(self):
        return {}

    def over(self, data, guesses, marks=None, blame=()):
        return Result({"left": 0.0}, "context" if blame else "guessed", blame=blame, marks=marks or {})


class TooLong(Sums):
    facts = Facts(0.0, 1.0, max_requests=3, max_retries=1)


class ForgetsASeat(Sums):
    def over(self, data, guesses, marks=None, blame=()):
        end = super().over(data, guesses, marks, blame)
        return Result({"left": end.returns["left"]}, end.outcome, blame=blame, marks=end.marks)


class MarksTheUnasked(Sums):
    def over(self, data, guesses, marks=None, blame=()):
        return super().over(data, guesses, {**(marks or {}), "left.99": {"reward": 1.0}}, blame)


class BlamesAWord(Sums):
    def over(self, data, guesses, marks=None, blame=()):
        return super().over(data, guesses, marks, "left and right" if blame else "")


class ForgetsToMark(Sums):
    def over(self, data, guesses, marks=None, blame=()):
        return super().over(data, guesses, {}, blame)


class OutOfBounds(Sums):
    facts = Facts(min_return=0.0, max_return=0.5, max_requests=6, max_retries=1)


class NotZeroSum(Sums):
    facts = Facts(min_return=0.0, max_return=1.0, max_requests=6, max_retries=1, zero_sum=True)


class OwnChance(Sums):
    """Draws from a generator that is neither the seed's nor the global one."""

    chance = Random(1)

    def views(self, data):
        return {role: View(role, f"yours {data[role]} today {self.chance.random()}") for role in self.roles}

    secrets = staticmethod(lambda scenario: {})


class SharedState(Sums):
    """Keeps a match's views on the game."""

    def views(self, data):
        self.kept = super().views(data)
        self.played = getattr(self, "played", 0) + 1
        self.kept["left"].tell(f"round {self.played}")
        return self.kept

    secrets = staticmethod(lambda scenario: {})


class GlobalChance(Sums):
    def over(self, data, guesses, marks=None, blame=()):
        random.random()
        return super().over(data, guesses, marks, blame)


class LeaksInTalk(Sums):
    def turns(self, data, seed):
        inner = super().turns({**data}, seed)
        asked = next(inner)
        while True:
            if isinstance(asked, list):
                asked = [replace(r, observation={**r.observation, "sum": sum(data.values())}) for r in asked]
            try:
                asked = inner.send((yield asked))
            except StopIteration as end:
                return end.value


class LeaksDeclared(Sums):
    """The defect is the same kind, the way of finding it the other: the game says what is secret."""

    def scenarios(self, split):
        return [Scenario(f"{split}{n}", {"left": f"heron{n}", "right": f"otter{n}"}) for n in range(3)]

    def secrets(self, scenario):
        return {role: [scenario.data[role]] for role in self.roles}

    def scripts(self):
        return {}

    def views(self, data):
        return {role: View(role, f"yours {data[role]} of {sorted(data.values())}") for role in self.roles}

    def over(self, data, guesses, marks=None, blame=()):
        return Result(dict.fromkeys(self.roles, 0.0), "context" if blame else "guessed", blame=blame, marks=marks or {})


class KeepsDeclared(LeaksDeclared):
    views = Sums.views


class TurnsUp(Sums):
    """Between talk and guesses a card is turned up that only the scenario knows, for all to see."""

    def scenarios(self, split: str) -> Sequence[Scenario]:
        return [
            Scenario(f"{each.id}/{card}", {**each.data, "card": card}, each.cluster)
            for each in super().scenarios(split)
            for card in range(20, 24)
        ]

    def public(self, scenario: Scenario) -> list[str]:
        return [f"the table shows {scenario.data['card']}", f'"table": {scenario.data["card"]}']

    def told(self, data: Mapping[str, int], seat: str) -> int:
        return data["card"]

    def turns(self, data, seed):
        views = self.views(data)
        for turned in (False, True):
            for role in self.roles:
                told = {"table": self.told(data, role)} if turned else {}
                if told:
                    views[role].tell(f"the table shows {told['table']}")
                reply = yield views[role].ask(observation={"own": data[role], **told, "guess": False})
                if reply.finish == "context":
                    return self.over(data, {}, blame=(role,))
                views[role].hear(reply)
        return self.over(data, {})


class TurnsUpUndeclared(TurnsUp):
    public = staticmethod(lambda scenario: [])


class TurnsUpTheOthersCard(TurnsUp):
    """What is turned up is the other one's number, in the words of what is declared public."""

    def told(self, data, seat):
        return data["right" if seat == "left" else "left"]


class TurnsUpAmongDeclared(TurnsUp):
    """The public card may be of the same number as the private one, which is declared a secret."""

    def secrets(self, scenario):
        return {"right": [str(scenario.data["right"])]}

    def scripts(self):
        return {}


class LeaksAmongDeclared(TurnsUpAmongDeclared):
    told = TurnsUpTheOthersCard.told


class CannotCompare(Sums):
    """Every scenario tells every seat another thing at once, and nothing is declared."""

    def views(self, data):
        return {role: View(role, f"table {data['left']}-{data['right']}") for role in self.roles}


class NoJson(Sums):
    def over(self, data, guesses, marks=None, blame=()):
        end = super().over(data, guesses, marks, blame)
        return Result(end.returns, end.outcome, blame=blame, marks=end.marks, metrics={"right": {1, 2}})


class NumberKeys(Sums):
    def scenarios(self, split):
        return [Scenario(s.id, {**s.data, "names": {1: "one"}}) for s in super().scenarios(split)]


class Rewrites(Sums):
    """Shows a seat its own reply trimmed."""

    def views(self, data):
        class Trims(View):
            def hear(self, reply: Reply) -> None:
                super().hear(Reply(reply.id, reply.text[:1]))

        return {role: Trims(role, f"yours {data[role]}") for role in self.roles}


class ForgetsHistory(Sums):
    def views(self, data):
        class Short(View):
            def hear(self, reply: Reply) -> None:
                del self._messages[1:]
                super().hear(reply)

        return {role: Short(role, f"yours {data[role]}") for role in self.roles}


class IgnoresContext(Sums):
    def over(self, data, guesses, marks=None, blame=()):
        return super().over(data, guesses, marks)


class SameId(Sums):
    """Two requests, one to each seat, share an id."""

    def views(self, data):
        class Numbers(View):
            def ask(self, kind="act", options=Options(), observation=None):
                made = super().ask(kind, options, observation)
                return made if observation["guess"] else replace(made, id="1")

        return {role: Numbers(role, f"yours {data[role]}") for role in self.roles}


class UnknownSeat(Sums):
    def turns(self, data, seed):
        reply = yield View("umpire", "ready?").ask(observation={"own": 0, "guess": False})
        if reply.finish == "context":
            return self.over(data, {}, blame=("umpire",))
        return (yield from super().turns(data, seed))

    facts = Facts(min_return=0.0, max_return=1.0, max_requests=7, max_retries=1)


class EarlyResult(Sums):
    def match(self, scenario, seed):
        class Eager(GeneratorMatch):
            def result(inner):
                return inner._result or Result({"left": 0.0, "right": 0.0}, "running")

        return Eager(self.turns(scenario.data, seed))


class SplitCluster(Sums):
    def scenarios(self, split):
        return [Scenario(s.id, s.data, cluster=str(s.data["right"])) for s in super().scenarios(split)]


class Reshuffles(Sums):
    chance = Random(2)

    def scenarios(self, split):
        return self.chance.sample(list(super().scenarios(split)), 16)


class ScriptFails(Sums):
    def scripts(self):
        return {"broken": lambda request, rng, persona: str(request.observation["missing"])}


class ScriptSaysNothing(Sums):
    def scripts(self):
        return {"mute": lambda request, rng, persona: None}


class SeatsAStranger(Sums):
    def seats(self, scenario: Scenario) -> tuple[str, ...]:
        return self.roles if scenario.id != "1+21" else ("left", "middle")


class ListsNothing(Sums):
    facts = Facts(min_return=0.0, max_return=1.0, max_requests=6, max_retries=1, enumerable=True)


BROKEN = {
    Raises: "junk",
    RetriesForEver: "retries",
    TooLong: "ends",
    ForgetsASeat: "returns",
    MarksTheUnasked: "returns",
    BlamesAWord: "returns",
    ForgetsToMark: "marks",
    OutOfBounds: "facts",
    NotZeroSum: "facts",
    OwnChance: "replay",
    SharedState: "replay",
    GlobalChance: "global_random",
    LeaksInTalk: "secrets",
    LeaksDeclared: "secrets",
    TurnsUpUndeclared: "secrets",
    TurnsUpTheOthersCard: "secrets",
    LeaksAmongDeclared: "secrets",
    CannotCompare: "secrets",
    NoJson: "json",
    NumberKeys: "json",
    Rewrites: "views",
    ForgetsHistory: "views",
    IgnoresContext: "context",
    SameId: "requests",
    UnknownSeat: "requests",
    EarlyResult: "requests",
    SplitCluster: "scenarios",
    Reshuffles: "scenarios",
    SeatsAStranger: "seats",
    ScriptFails: "scripts",
    ScriptSaysNothing: "scripts",
    ListsNothing: "enumerable",
}


def failing(game: object, matches: int = 24) -> set[str]:
    found = set()
    for name, run in conformance.CHECKS.items():
        try:
            run(game, matches, 0)
        except conformance.ConformanceError as error:
            assert error.check == name
            found.add(name)
    return found


@pytest.mark.parametrize("game", [Sums, KeepsDeclared, TurnsUp, TurnsUpAmongDeclared])
def test_good_games_pass(game):
    conformance.check(game(), matches=40)


@pytest.mark.parametrize("game", BROKEN, ids=lambda game: game.__name__)
def test_a_broken_game_is_caught_by_the_intended_check_alone(game):
    assert failing(game()) == {BROKEN[game]}
    with pytest.raises(conformance.ConformanceError, match=f"^{BROKEN[game]}: "):
        conformance.check(game(), matches=24)


def test_every_check_is_proved_by_a_broken_game():
    assert set(BROKEN.values()) == set(conformance.CHECKS)


@pytest.mark.parametrize(
    "options", [{}, {"payoff": "comp", "prompt": "full"}, {"payoff": 0.3, "prompt": "published", "retries": 0}]
)
@pytest.mark.parametrize("name", conformance.CHECKS)
def test_deal_conforms(name, options):
    conformance.CHECKS[name](Deal(**options, max_actions=12), matches=24, seed=1)


def test_deal_ends_at_its_cap_and_retries():
    conformance.check(Deal(max_actions=3, retries=1), matches=40, seed=2)


def test_global_random_looks_at_numpy_too():
    numpy = pytest.importorskip("numpy")

    class Touches(Sums):
        def over(self, data, guesses, marks=None, blame=()):
            numpy.random.random()
            return super().over(data, guesses, marks, blame)

    assert failing(Touches()) == {"global_random"}


def test_junk_texts_survive_json():
    assert json.loads(json.dumps(conformance.JUNK)) == list(conformance.JUNK)
