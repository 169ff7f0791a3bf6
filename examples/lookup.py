"""Lookup: a game with a tool. The reader is asked for somebody's number, and may look one name up in a book.

The book is a service: it serves the match, is in the record, has no payoff and is never trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from parley.games import (
    Facts,
    GeneratorMatch,
    Json,
    Match,
    Request,
    Result,
    Scenario,
    Script,
    Tool,
    Turns,
    Unreachable,
    View,
    split,
)

NAMES = ("ada", "bob", "cid", "dot", "eve", "fay", "gus", "hal")
METRICS = {"score": "1 if the answer is the number", "found_rate": "1 if the right name was looked up"}


class Lookup:
    """The game. `pages` numbers the books that there are, each with other numbers for the same names."""

    name = "lookup"
    version = 1
    roles = ("reader",)

    def __init__(self, pages: int = 40) -> None:
        self.pages = pages
        self.services = {"book": Tool(lambda: self.search, parallel=4, timeout_s=5, retries=2)}
        self.facts = Facts(min_return=0, max_return=1, max_requests=3, max_retries=0, metrics=METRICS)

    def search(self, request: Request) -> str:
        """The tool: `PAGE NAME` -> the number. A service on the network would raise Unreachable when it is down."""
        page, _, name = request.messages[-1].content.partition(" ")
        if not page.isdecimal():
            raise Unreachable(f"there is no page {page}")
        return number(int(page), name) if name in NAMES else "unknown"

    def scenarios(self, split_name: str) -> Sequence[Scenario]:
        """Each name of each page; whole pages are held out."""
        pages = split({str(page): str(page) for page in range(self.pages)}, seed=0)[split_name]
        return [Scenario(f"{page}-{name}", {"page": int(page), "name": name}, page) for page in pages for name in NAMES]

    def match(self, scenario: Scenario, seed: int) -> Match:
        return GeneratorMatch(self._turns(scenario.data))

    def scripts(self) -> Mapping[str, Script]:
        """`careful` looks up and copies, `hasty` looks up any name."""
        return {"careful": _reader(0.0), "hasty": _reader(0.7)}

    def _turns(self, told: Mapping[str, Json]) -> Turns:
        reader, book = View("reader", f"what is the number of {told['name']} ?"), View("book")
        reader.tell("whom do you look up ?")
        asked = yield reader.ask(observation={"name": told["name"]})
        if asked.finish == "context":  # the view no longer fits the model: the match must end
            return _result("context", blame=("reader",))
        reader.hear(asked)
        book.tell(f"{told['page']} {asked.text.strip()}")
        found = yield book.ask()
        if found.finish == "context":
            return _result("context", blame=("book",))
        reader.tell(f"the book says {found.text}")
        answer = yield reader.ask(observation={"found": found.text})
        if answer.finish == "context":
            return _result("context", blame=("reader",))
        right = answer.finish == "stop" and answer.text.strip() == number(told["page"], told["name"])
        return _result("right" if right else "wrong", asked.text.strip() == told["name"])


def _result(outcome: str, found: bool = False, blame: tuple[str, ...] = ()) -> Result:
    score = int(outcome == "right")
    return Result({"reader": score}, outcome, blame=blame, metrics={"score": score, "found_rate": int(found)})


def number(page: int, name: str) -> str:
    """What the book of this page says of a name."""
    return str(Random(f"{page} {name}").randint(1, 9))


def _reader(slip: float) -> Callable[[Request, Random, Random], str]:
    def script(request: Request, rng: Random, persona: Random) -> str:
        seen = request.observation or {}
        if "found" in seen:
            return str(seen["found"])
        return rng.choice(NAMES) if rng.random() < slip else str(seen["name"])

    return script
