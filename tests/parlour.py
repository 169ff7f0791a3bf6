"""Small games with every kind of seat: a tool, a judge, probes, one role, three, two to five by scenario."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from parley.games.base import Facts, GeneratorMatch, Message, Request, Result, Scenario, Script, Tool, Turns, View

THINGS = ("tea", "coffee", "rice", "wool", "wine", "cocoa", "salt", "silk")
NAMES = ("ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal")
OWNERS = dict(zip(THINGS, NAMES, strict=True))
SPLITS = ("train", "validation", "test")


class Library:
    """A game for one: the reader names who likes a thing, and may look twice on the shelf, a tool."""

    name, version, roles = "library", "2026-11", ("reader",)

    def __init__(self, held_out: bool = False) -> None:
        told = {"right": "1 if the name was right", "looks": "times that the shelf was asked"}
        self.facts = Facts(0.0, 1.0, 5, 0, metrics=told, held_out=held_out)
        self.services = {"shelf": Tool(self.shelf, parallel=2, timeout_s=30.0, retries=1)}

    def shelf(self) -> Callable[[Request], str]:
        return lambda request: f"{OWNERS[request.messages[0].content]} does"

    def scenarios(self, split: str) -> Sequence[Scenario]:
        mine = [*OWNERS][SPLITS.index(split) :: 3] if self.facts.held_out else OWNERS
        return [Scenario(thing, {"thing": thing}) for thing in mine]

    def match(self, scenario: Scenario, seed: int) -> GeneratorMatch:
        return GeneratorMatch(self.turns(scenario.data["thing"]))

    def scripts(self) -> Mapping[str, Script]:
        def player(request: Request, own: Random, persona: Random) -> str:
            found = (request.observation or {}).get("found")
            return found.split()[0] if found else "look"

        return {"player": player, "guesser": lambda request, own, persona: own.choice([*OWNERS.values()])}

    def turns(self, thing: str) -> Turns:
        reader, found, looks = View("reader", "say look or a name"), None, 0
        reader.tell(f"who likes {thing} ?")
        while True:
            reply = yield reader.ask(observation={"found": found})
            if reply.finish == "context":
                return Result({"reader": 0.0}, "context", blame=("reader",))
            reader.hear(reply)
            if reply.text.strip() != "look" or looks == 2:
                break
            served = yield Request(f"shelf.{looks}", "shelf", (Message("user", thing),), "tool")
            if served.finish == "context":
                return Result({"reader": 0.0}, "context", blame=("shelf",))
            found, looks = served.text or "nothing", looks + 1
            reader.tell(found)
        right = float(reply.text.strip() == OWNERS[thing])
        return Result({"reader": right}, "right" if right else "wrong", metrics={"right": right, "looks": float(looks)})


class Debate:
    """Two speakers say two words each, with a question aside between; the judge, a script, says who said what it
    likes, which it alone knows."""

    name, version, roles = "debate", 1, ("pro", "con")
    facts = Facts(-1.0, 1.0, 7, 0, zero_sum=True, metrics={"won": "1 if the judge chose the seat", "judged": "chosen"})

    def __init__(self) -> None:
        self.services: Mapping[str, Script] = {"judge": self.judge}

    def scenarios(self, split: str) -> Sequence[Scenario]:
        topics = [f"{each} {split}" for each in ("one", "two", "six")]
        return [Scenario(f"{topic}-{like}", {"topic": topic, "like": like}) for topic in topics for like in OWNERS]

    def match(self, scenario: Scenario, seed: int) -> GeneratorMatch:
        return GeneratorMatch(self.turns(scenario.data["topic"], scenario.data["like"]))

    def scripts(self) -> Mapping[str, Script]:
        def player(request: Request, own: Random, persona: Random) -> str:
            return own.choice(("yes", "no") if request.kind == "probe" else THINGS)

        return {"player": player, "partial": lambda request, own, persona: "pro"}

    @staticmethod
    def judge(request: Request, own: Random, persona: Random) -> str:
        like, *said = request.messages[-1].content.split("\n")
        scores = {line.split(":")[0]: line.split().count(like.split()[-1]) for line in said if ":" in line}
        return max(scores, key=lambda seat: (scores[seat], seat)) if any(scores.values()) else "neither"

    def turns(self, topic: str, like: str) -> Turns:
        views, said = {seat: View(seat, f"speak of {topic}") for seat in self.roles}, dict.fromkeys(self.roles, "")
        judge = View("judge", "who was better ?")
        for again in (False, True):
            for seat, other in (self.roles, self.roles[::-1]):
                views[seat].tell("your word")
                reply = yield views[seat].ask()
                if reply.finish == "context":
                    return Result(dict.fromkeys(self.roles, 0.0), "context", blame=(seat,))
                views[seat].hear(reply)
                word = " ".join(reply.text.split())[:20]
                said[seat] += f" {word}"
                views[other].tell(f"they said {word}")
            if not again:
                asides = yield [views[seat].probe("will you win ?") for seat in self.roles]
                if lost := [seat for seat, each in zip(self.roles, asides, strict=True) if each.finish == "context"]:
                    return Result(dict.fromkeys(self.roles, 0.0), "context", blame=tuple(lost))
        judge.tell("\n".join([f"likes {like}", *(f"{seat}:{words}" for seat, words in said.items())]))
        verdict = yield judge.ask("judge")
        if verdict.finish == "context":
            return Result(dict.fromkeys(self.roles, 0.0), "context", blame=("judge",))
        chosen = verdict.text.strip()
        won = {seat: float(seat == chosen) for seat in self.roles}
        judged = float(chosen in self.roles)
        returns = {seat: 2 * won[seat] - judged for seat in self.roles}
        return Result(returns, chosen if judged else "tie", metrics={"won": won, "judged": judged})


class Auction:
    """As many bidders as the scenario says bid at once, 1 to 9: the highest bid that nobody else made wins."""

    name, version = "auction", 1

    def __init__(self, tables: Sequence[int] = (2, 3, 4, 5)) -> None:
        self.tables, self.roles = tuple(tables), tuple(f"p{number + 1}" for number in range(max(tables)))
        self.facts = Facts(0.0, 1.0, max(tables), 0, metrics={"won": "1 for the winner"})

    def scenarios(self, split: str) -> Sequence[Scenario]:
        return [Scenario(f"{split}-{many}-{n}", {"many": many}) for n in range(4) for many in self.tables]

    def seats(self, scenario: Scenario) -> tuple[str, ...]:
        return self.roles[: scenario.data["many"]]

    def match(self, scenario: Scenario, seed: int) -> GeneratorMatch:
        return GeneratorMatch(self.turns(self.seats(scenario)))

    def scripts(self) -> Mapping[str, Script]:
        return {"player": lambda request, own, persona: str(own.randrange(1, 10))}

    def secrets(self, scenario: Scenario) -> Mapping[str, Sequence[str]]:
        return {}

    def turns(self, seats: Sequence[str]) -> Turns:
        views = {seat: View(seat, f"{len(seats)} bidders") for seat in seats}
        for seat in seats:
            views[seat].tell("bid")
        replies = yield [views[seat].ask() for seat in seats]
        if lost := [seat for seat, reply in zip(seats, replies, strict=True) if reply.finish == "context"]:
            return Result(dict.fromkeys(seats, 0.0), "context", blame=tuple(lost))
        bids = [reply.text.strip() if reply.text.strip() in [*"123456789"] else "" for reply in replies]
        single = [bid for bid in bids if bid and bids.count(bid) == 1]
        won = {seat: float(bool(single) and bid == max(single)) for seat, bid in zip(seats, bids, strict=True)}
        return Result(won, "sold" if single else "unsold", metrics={"won": won})
