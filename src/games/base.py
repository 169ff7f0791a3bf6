"""The game contract: a Game makes Matches, a Match asks with Requests, is answered with Replies, ends with a Result.

A game written top to bottom (`reply = yield view.ask()`) becomes a Match through `GeneratorMatch`. The conformance
kit (`parley.games.conformance`) checks any game against everything that this module promises.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

Json: TypeAlias = Any  # what json.dumps takes: dict with str keys, list, str, int, float, bool, None
Speaker: TypeAlias = Literal["system", "user", "assistant"]
Finish: TypeAlias = Literal["stop", "length", "refusal", "context", "error"]
"""How a reply ended: by itself; cut at its length; refused; not made, because the view no longer fits the model's
context (the match must then end with outcome "context" and blame that seat); or the player is lost (never a move)."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What differs between two matches of a game, as plain JSON.

    `id` is stable across runs and machines. Scenarios that are not independent (mirror images of one context, two
    seatings of one word) share a `cluster`: splits never separate them, and intervals are clustered by it.
    """

    id: str
    data: Mapping[str, Json]
    cluster: str = ""

    def __post_init__(self) -> None:
        if not self.cluster:
            object.__setattr__(self, "cluster", self.id)


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message of a seat's private view. The seat's own replies are assistant messages that carry `request`."""

    role: Speaker
    content: str
    request: str | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """How a reply is to be made: where it stops, at most how many tokens it has (a player may have a lower limit of its
    own, which then counts), and a JSON schema, to which a backend holds it if it can: a game checks what it gets."""

    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    schema: Mapping[str, Json] | None = None

    def length(self, own: int) -> int:
        """The tokens that a reply may have: the smaller of this limit and the player's `own`."""
        return own if self.max_tokens is None else min(own, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Request:
    """A question to one seat: its whole private view as chat messages.

    `id` is unique in the match and the same in every replay. `kind` is act, retry, tool, judge…; a probe is a question
    aside, which stands in no later view of the seat, nor does its reply. `observation` is the same view as plain data,
    for scripted players and people; it holds nothing that `messages` do not tell. A game that can list the legal
    replies gives them as `observation["legal"]`, a list of different strings.
    """

    id: str
    seat: str
    messages: tuple[Message, ...]
    kind: str = "act"
    options: Options = Options()
    observation: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a player answered to the request `id`. A match never sees finish "error": it is owed again instead."""

    id: str
    text: str
    finish: Finish = "stop"


@dataclass(frozen=True, slots=True)
class Result:
    """How a match ended.

    returns          payoff of each role that is seated in the match; services have none
    outcome          one word: agreement, abort, attacker, tie…
    outcome_by_seat  the same from each seat's side, where it differs; win, loss, tie and void are read by credit
    blame            the seats that their last reply put out of the match, being illegal; others may have gone on
    metrics          name -> number for the match, or name -> {seat: number}
    marks            request id -> what is noted of that reply (reward, retry reason, forced moves…)
    """

    returns: Mapping[str, float]
    outcome: str
    outcome_by_seat: Mapping[str, str] = field(default_factory=dict)
    blame: tuple[str, ...] = ()
    metrics: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)
    marks: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a game declares of itself; the conformance kit holds every match against it."""

    min_return: float
    max_return: float
    max_requests: int  # requests of one match: retries and those to services included
    max_retries: int  # consecutive retry requests to one seat
    zero_sum: bool = False
    history: bool = (
        False  # a seat's first view may hold assistant messages that the scenario brings along (an earlier chat)
    )
    metrics: Mapping[str, str] = field(default_factory=dict)  # name of a metric -> what it says, for reports
    ceilings: Mapping[str, str] = field(default_factory=dict)  # metric -> the metric that says the most it can be
    held_out: bool = True  # False: all splits are one list, as in a game that has only a few scenarios
    # All chance is the draw of a scenario, each equally likely, and every request lists its legal replies: the whole
    # game can be walked (`games.tree`) and a policy measured exactly.
    enumerable: bool = False


class Match(Protocol):
    """One play of a game, single use. It never raises because a player wrote nonsense."""

    def start(self) -> Sequence[Request]:
        """The first requests (several at once are simultaneous moves)."""

    def step(self, replies: Sequence[Reply]) -> Sequence[Request]:
        """Takes the replies to all open requests; returns the next ones, none when the match is over."""

    def result(self) -> Result:
        """How it ended; RuntimeError while requests are open."""


Script: TypeAlias = "Callable[[Request, Random, Random], str]"
"""A scripted policy: (request, its own randomness for this request, its persona's for the whole match) -> reply
text."""


class Unreachable(Exception):
    """What a tool asks cannot be reached now: the request is tried again, then its match is owed."""


@dataclass(frozen=True)
class Tool:
    """What serves a match from outside of it: a search engine, a calculator, a service on the network.

    `build` makes the function (request) -> reply text, once and at the first request, so that a replay needs no index.
    The function is called from several threads and may raise Unreachable; its replies stand in the record.

    parallel      requests at a time
    timeout_s     seconds that one may take; after that it counts as unreachable
    retries       further attempts for a request
    max_requests  ceiling for one run, retries included; None for none
    """

    build: Callable[[], Callable[[Request], str]]
    parallel: int = 8
    timeout_s: float = 60.0
    retries: int = 3
    max_requests: int | None = None

    @cached_property
    def answer(self) -> Callable[[Request], str]:
        """What `build` made."""
        return self.build()


@runtime_checkable
class Game(Protocol):
    """The rules. A game is one object, built by Hydra from its YAML, and holds no state of a match.

    `roles` are seats that are played for a payoff. A game may further have
        services         seat -> Script | Tool: seats that serve the match (a search engine, a judge, a referee)
        seats(scenario)  the roles that a match of this scenario seats, if not all of them
        secrets(scenario), public(scenario)  see the conformance kit
        guide            what a person at the terminal is told: a Guide
        under, aim       one of several payoffs for each match: see Payoffs
    which the functions `services`, `seats` and `guide` of this module read.
    """

    name: str
    version: int | str  # another one when the same replies could lead to another result
    roles: tuple[str, ...]
    facts: Facts

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """All scenarios of a split ("train", "validation", "test"), in an order that only the config decides."""

    def match(self, scenario: Scenario, seed: int) -> Match:
        """A new match; whatever chance the rules need comes from `seed`."""

    def scripts(self) -> Mapping[str, Script]:
        """Scripted players of the roles by name: demonstrators and yardsticks. May be empty."""


def services(game: Game) -> Mapping[str, Script | Tool]:
    """The seats of `game` that serve its matches, and who sits there unless the config says otherwise."""
    found: Mapping[str, Script | Tool] = getattr(game, "services", {})
    return found


@runtime_checkable
class Payoffs(Protocol):
    """A game that can be played for one of several payoffs, which then stands in the scenario."""

    def under(self, scenario: Scenario, payoff: str) -> Scenario:
        """`scenario` played for the payoff of this name, which its data then hold as "payoff": an id of its own, the
        same cluster. ValueError for a name that there is not."""

    def aim(self, scenario: Scenario) -> str:
        """What a seat is after in a match on this scenario, in a sentence that everybody at the table may read."""


class Guide(Protocol):
    """What a game tells a person at the terminal, in place of its system prompt. `seen` is the request's
    observation."""

    def rules(self, seat: str, seen: Mapping[str, Json]) -> str:
        """The rules, once, before the first reply."""

    def now(self, seat: str, seen: Mapping[str, Json]) -> str:
        """What is legal now, with an example."""

    def refused(self, seat: str, seen: Mapping[str, Json]) -> str:
        """Why the last reply was refused: `seen["error"]` in words."""

    def ending(self, scenario: Scenario, result: Result, seat: str) -> str:
        """How the match ended, in one line."""


def guide(game: Game) -> Guide | None:
    """The guide of `game` for people; None where it has none."""
    found: Guide | None = getattr(game, "guide", None)
    return found


def seats(game: Game, scenario: Scenario) -> tuple[str, ...]:
    """The roles that a match of `scenario` seats, in the order of the game's."""
    chosen: Callable[[Scenario], Sequence[str]] | None = getattr(game, "seats", None)
    return tuple(game.roles if chosen is None else chosen(scenario))


Turns: TypeAlias = Generator[Request | Sequence[Request], Any, Result]


class GeneratorMatch:
    """A Match from a generator: `reply = yield request`, or `replies = yield [requests]`; it returns the Result."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._open: tuple[str, ...] = ()
        self._single = False
        self._result: Result | None = None

    def start(self) -> Sequence[Request]:
        return self._advance(None)

    def step(self, replies: Sequence[Reply]) -> Sequence[Request]:
        by_id = {reply.id: reply for reply in replies}
        if len(replies) != len(self._open) or set(by_id) != set(self._open):
            raise ValueError(f"open requests are {list(self._open)}, got replies to {[r.id for r in replies]}")
        ordered = [by_id[request] for request in self._open]
        return self._advance(ordered[0] if self._single else ordered)

    def result(self) -> Result:
        if self._result is None:
            raise RuntimeError("the match is not over: it still has open requests")
        return self._result

    def _advance(self, value: Reply | list[Reply] | None) -> Sequence[Request]:
        try:
            asked = self._turns.send(value)
        except StopIteration as end:
            self._result, self._open = end.value, ()
            return ()
        self._single = isinstance(asked, Request)
        requests = (asked,) if isinstance(asked, Request) else tuple(asked)
        self._open = tuple(request.id for request in requests)
        return requests


class View:
    """One seat's private chat while a match runs: what it was told, and what it replied.

    What is told between two replies becomes one user message, so that every chat template can render the view.
    """

    def __init__(self, seat: str, system: str = "") -> None:
        self.seat = seat
        self._messages: list[Message] = [Message("system", system)] if system else []
        self._told: list[str] = []
        self._asked = 0

    def tell(self, text: str) -> None:
        """Adds `text` to what the seat reads before its next reply."""
        self._told.append(text)

    def ask(
        self, kind: str = "act", options: Options = Options(), observation: Mapping[str, Json] | None = None
    ) -> Request:
        """A request to this seat, with everything it has been told so far."""
        if self._told:
            self._messages.append(Message("user", "\n".join(self._told)))
            self._told = []
        self._asked += 1
        return Request(f"{self.seat}.{self._asked}", self.seat, tuple(self._messages), kind, options, observation)

    def probe(
        self, question: str, options: Options = Options(), observation: Mapping[str, Json] | None = None
    ) -> Request:
        """A question aside (a belief, a rating): neither it nor its reply, which is not heard, stands in a later
        view."""
        self._asked += 1
        aside = Message("user", "\n".join([*self._told, question]))
        messages = (*self._messages, aside)
        return Request(f"{self.seat}.{self._asked}", self.seat, messages, "probe", options, observation)

    def hear(self, reply: Reply) -> None:
        """Adds the seat's own reply, as it wrote it."""
        self._messages.append(Message("assistant", reply.text, reply.id))

    def refuse(self, illegal: Illegal) -> None:
        """Says what was wrong with the seat's last reply."""
        self.tell(illegal.told or illegal.reason)


@dataclass(frozen=True, slots=True)
class Illegal:
    """What a game's parser returns for an illegal reply: the `reason` in a word or two, as it is marked and counted,
    and what the seat is `told` before it is asked again (else the reason)."""

    reason: str
    told: str = ""


class Out(Exception):
    """A seat made no legal reply. `outcome` is "abort" (illegal to the last retry) or "context" (its view outgrew the
    model), `blame` the seat, both as a Result takes them."""

    def __init__(self, outcome: Literal["abort", "context"], seat: str) -> None:
        super().__init__(outcome, seat)
        self.outcome, self.blame = outcome, (seat,)


class Asked(Protocol):
    """One seat's private chat, as `legal` needs it. `View` is one."""

    seat: str

    def ask(
        self, kind: str = "act", options: Options = Options(), observation: Mapping[str, Json] | None = None
    ) -> Request:
        """The seat's next request."""

    def hear(self, reply: Reply) -> None:
        """Adds the seat's own reply."""

    def refuse(self, illegal: Illegal) -> None:
        """Says what was wrong with the last reply."""


Move = TypeVar("Move")
Marks: TypeAlias = dict[str, dict[str, Json]]
"""request id -> what is noted of that reply, as a Result takes it."""


def legal(
    view: Asked,
    parse: Callable[[Reply], Move | Illegal],
    retries: int,
    marks: Marks,
    observation: Mapping[str, Json] | None = None,
    options: Options = Options(),
) -> Generator[Request, Reply, Move]:
    """Asks a seat until its reply is legal: `move = yield from legal(view, parse, retries, marks)`.

    An illegal reply is answered by a retry request, up to `retries` times. It is marked {"retry": reason} in `marks`,
    so that nobody is trained on it, and the seat is told why. `observation` gets the reason as its "error" (None at
    first). Raises Out where no reply was legal: a game catches it to end the match, or to go on without the seat.
    """
    error: str | None = None
    for attempt in range(1 + retries):
        seen = None if observation is None else {**observation, "error": error}
        reply = yield view.ask("retry" if attempt else "act", options, seen)
        if reply.finish == "context":
            raise Out("context", view.seat)
        view.hear(reply)
        move = parse(reply)
        if not isinstance(move, Illegal):
            return move
        error = move.reason
        marks[reply.id] = {"retry": error}
        view.refuse(move)
    raise Out("abort", view.seat)
