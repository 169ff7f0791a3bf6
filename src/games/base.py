"""The game contract (environment interface): a Game creates Matches; a Match emits Requests, takes Replies, and ends
with a Result.

A game written top to bottom (`reply = yield view.ask()`) becomes a Match through `GeneratorMatch`. The conformance kit
(`parley.games.conformance`) tests any game against this contract.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

Json: TypeAlias = Any  # what json.dumps accepts: dict with str keys, list, str, int, float, bool, None
Speaker: TypeAlias = Literal["system", "user", "assistant"]
Finish: TypeAlias = Literal["stop", "length", "refusal", "context", "error"]
"""How a reply ended: by itself; cut at its length; refused; not made, because the view no longer fits the model's
context (then the match must end with outcome "context" and blame that seat); or the player was lost (never reaches a
match)."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A task instance (initial state) as plain JSON.

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
    """Constraints of a reply: stop strings, a limit in tokens (a player's own lower limit wins), and a JSON schema,
    which a backend enforces if it can. Games check replies in any case."""

    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    schema: Mapping[str, Json] | None = None

    def length(self, own: int) -> int:
        """The limit of a reply in tokens: the smaller of this limit and the player's `own`."""
        return own if self.max_tokens is None else min(own, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to one seat for a reply, with its whole private view as chat messages.

    `id` is unique in the match and the same in every replay. `kind` is act, retry, tool, judge…; a probe is a side
    question: neither it nor its reply appears in later views of the seat. `observation` is the same view as plain data,
    for scripts and people; it must hold nothing that `messages` do not tell. A game that can list the legal replies
    puts them into `observation["legal"]`, a list of different strings.
    """

    id: str
    seat: str
    messages: tuple[Message, ...]
    kind: str = "act"
    options: Options = Options()
    observation: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A player's reply to the request `id`. A match never sees finish "error": it is played again instead."""

    id: str
    text: str
    finish: Finish = "stop"


@dataclass(frozen=True, slots=True)
class Result:
    """How a match ended.

    returns          payoff of each seated role; services have none
    outcome          one word: agreement, abort, attacker, tie…
    outcome_by_seat  the outcome from each seat's side, if different; credit reads win, loss, tie and void
    blame            seats that left the match because their last reply was illegal; others may have continued
    metrics          name -> number for the match, or name -> {seat: number}
    marks            request id -> notes on that reply (reward, retry reason, forced moves…)
    """

    returns: Mapping[str, float]
    outcome: str
    outcome_by_seat: Mapping[str, str] = field(default_factory=dict)
    blame: tuple[str, ...] = ()
    metrics: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)
    marks: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """Properties that a game declares; the conformance kit checks them in every match.

    min_return, max_return  bounds of a seat's payoff
    max_requests  requests of one match, including retries and requests to services
    max_retries   consecutive retry requests to one seat
    zero_sum      the payoffs of each match add up to 0
    history       a seat's first view may contain assistant messages from the scenario (an earlier chat)
    metrics       name of a metric -> its meaning, for reports; the table of a run shows those that end in _rate
    ceilings      metric -> the metric that is its upper bound
    held_out      False: all splits are the same list, as in a game with few scenarios
    enumerable    the only chance is the uniform draw of a scenario, and every request lists its legal replies:
                  `games.tree` can enumerate the whole game and measure a policy exactly
    """

    min_return: float
    max_return: float
    max_requests: int
    max_retries: int
    zero_sum: bool = False
    history: bool = False
    metrics: Mapping[str, str] = field(default_factory=dict)
    ceilings: Mapping[str, str] = field(default_factory=dict)
    held_out: bool = True
    enumerable: bool = False


class Match(Protocol):
    """One play of a game (episode of the environment), single use. It never raises because of a player's text."""

    def start(self) -> Sequence[Request]:
        """The first requests (several at once are simultaneous moves)."""

    def step(self, replies: Sequence[Reply]) -> Sequence[Request]:
        """Takes the replies to all open requests; returns the next requests, none when the match is over."""

    def result(self) -> Result:
        """The result; RuntimeError while requests are open."""


Script: TypeAlias = "Callable[[Request, Random, Random], str]"
"""A scripted policy: (request, random generator of this request, random generator of the persona, the same in the whole
match) -> reply text."""


class Unreachable(Exception):
    """A tool's service cannot be reached now: the request is retried, then its match stays owed (to be played)."""


@dataclass(frozen=True)
class Tool:
    """An external service for matches: a search engine, a calculator, a service on the network.

    `build` returns the function (request) -> reply text. It is called once, at the first request, so that a replay
    needs no index. The function is called from several threads and may raise Unreachable; its replies are recorded.

    parallel      requests at a time
    timeout_s     seconds that one may take, then it counts as unreachable
    retries       further attempts for a request
    max_requests  limit for one run, retries included; None: no limit
    """

    build: Callable[[], Callable[[Request], str]]
    parallel: int = 8
    timeout_s: float = 60.0
    retries: int = 3
    max_requests: int | None = None

    @cached_property
    def answer(self) -> Callable[[Request], str]:
        """The function that `build` returned."""
        return self.build()


@runtime_checkable
class Game(Protocol):
    """The rules of a game (an environment). A game is one object, built from its YAML, and holds no state of a match.

    `roles` are the seats with a payoff. Optional members:
        services         seat -> Script | Tool: seats that serve the match (a search engine, a judge, a referee)
        seats(scenario)  the roles that a match of this scenario seats, if not all of them
        secrets(scenario), public(scenario)  see the conformance kit
        guide            texts for a person at the terminal: a Guide
        under, aim       one of several payoffs for each match: see Payoffs
    which the functions `services`, `seats` and `guide` of this module read.
    """

    name: str
    version: int | str  # change it whenever the same replies may lead to another result
    roles: tuple[str, ...]
    facts: Facts

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """All scenarios of a split ("train", "validation", "test"), in an order that depends only on the config.
        ValueError for an unknown or empty split."""

    def match(self, scenario: Scenario, seed: int) -> Match:
        """A new match; all randomness of the rules comes from `seed`."""

    def scripts(self) -> Mapping[str, Script]:
        """Scripted players of the roles by name: demonstrators and baselines. May be empty."""


def services(game: Game) -> Mapping[str, Script | Tool]:
    """The services of `game`: seat -> its default script or tool."""
    found: Mapping[str, Script | Tool] = getattr(game, "services", {})
    return found


@runtime_checkable
class Payoffs(Protocol):
    """A game that can be played for one of several payoffs, named in the scenario."""

    def under(self, scenario: Scenario, payoff: str) -> Scenario:
        """The variant of `scenario` for the payoff of this name, which its data hold as "payoff"; it has a new id and
        the same cluster. ValueError for an unknown name."""

    def aim(self, scenario: Scenario) -> str:
        """A seat's aim in a match on this scenario, as a sentence that all seats may read."""


class Guide(Protocol):
    """A game's texts for a person at the terminal, in place of its prompts. `seen` is the request's observation."""

    def rules(self, seat: str, seen: Mapping[str, Json]) -> str:
        """The rules, shown once, before the first reply."""

    def now(self, seat: str, seen: Mapping[str, Json]) -> str:
        """The legal replies now, with an example."""

    def refused(self, seat: str, seen: Mapping[str, Json]) -> str:
        """Why the last reply was refused: `seen["error"]` in words."""

    def ending(self, scenario: Scenario, result: Result, seat: str) -> str:
        """How the match ended, in one line."""


def guide(game: Game) -> Guide | None:
    """The guide of `game` for people, or None."""
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
        """Runs the generator to its first requests."""
        return self._advance(None)

    def step(self, replies: Sequence[Reply]) -> Sequence[Request]:
        """Sends the replies to all open requests, in any order; returns the next requests, () at the end. ValueError
        unless each open request has exactly one reply."""
        by_id = {reply.id: reply for reply in replies}
        if len(replies) != len(self._open) or set(by_id) != set(self._open):
            raise ValueError(f"open requests are {list(self._open)}, got replies to {[r.id for r in replies]}")
        ordered = [by_id[request] for request in self._open]
        return self._advance(ordered[0] if self._single else ordered)

    def result(self) -> Result:
        """The generator's Result. RuntimeError while requests are open."""
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
    """One seat's private chat during a match (its observation history): messages to it, and its replies.

    Texts between two replies are joined into one user message, so that every chat template can render the view.
    """

    def __init__(self, seat: str, system: str = "") -> None:
        self.seat = seat
        self._messages: list[Message] = [Message("system", system)] if system else []
        self._told: list[str] = []
        self._asked = 0

    def tell(self, text: str) -> None:
        """Adds `text` to the user message before the seat's next reply."""
        self._told.append(text)

    def ask(
        self, kind: str = "act", options: Options = Options(), observation: Mapping[str, Json] | None = None
    ) -> Request:
        """A request to this seat, with its whole chat so far."""
        if self._told:
            self._messages.append(Message("user", "\n".join(self._told)))
            self._told = []
        self._asked += 1
        return Request(f"{self.seat}.{self._asked}", self.seat, tuple(self._messages), kind, options, observation)

    def probe(
        self, question: str, options: Options = Options(), observation: Mapping[str, Json] | None = None
    ) -> Request:
        """A request for a side question (a belief, a rating). Neither it nor its reply appears in later views; do not
        `hear` the reply."""
        self._asked += 1
        aside = Message("user", "\n".join([*self._told, question]))
        messages = (*self._messages, aside)
        return Request(f"{self.seat}.{self._asked}", self.seat, messages, "probe", options, observation)

    def hear(self, reply: Reply) -> None:
        """Adds the seat's own reply, verbatim."""
        self._messages.append(Message("assistant", reply.text, reply.id))

    def refuse(self, illegal: Illegal) -> None:
        """Tells the seat what was wrong with its last reply."""
        self.tell(illegal.told or illegal.reason)


@dataclass(frozen=True, slots=True)
class Illegal:
    """A parser's verdict on an illegal reply: the `reason` in a word or two, for marks and counts, and the text `told`
    to the seat before the retry (default: the reason)."""

    reason: str
    told: str = ""


class Out(Exception):
    """A seat made no legal reply. For a Result: `outcome` is "abort" (all retries were illegal) or "context" (its view
    no longer fits the model), `blame` holds the seat."""

    def __init__(self, outcome: Literal["abort", "context"], seat: str) -> None:
        super().__init__(outcome, seat)
        self.outcome, self.blame = outcome, (seat,)


class Asked(Protocol):
    """The part of a `View` that `legal` needs."""

    seat: str

    def ask(
        self, kind: str = "act", options: Options = Options(), observation: Mapping[str, Json] | None = None
    ) -> Request:
        """The seat's next request."""

    def hear(self, reply: Reply) -> None:
        """Adds the seat's own reply."""

    def refuse(self, illegal: Illegal) -> None:
        """Tells the seat what was wrong with its last reply."""


Move = TypeVar("Move")
Marks: TypeAlias = dict[str, dict[str, Json]]
"""request id -> notes on that reply, for a Result."""


def legal(
    view: Asked,
    parse: Callable[[Reply], Move | Illegal],
    retries: int,
    marks: Marks,
    observation: Mapping[str, Json] | None = None,
    options: Options = Options(),
) -> Generator[Request, Reply, Move]:
    """Requests replies from a seat until one is legal: `move = yield from legal(view, parse, retries, marks)`.

    An illegal reply is followed by a retry request, up to `retries` times. It is marked {"retry": reason} in `marks`,
    so that it is not trained on, and the seat is told why. `observation` gets the reason as its "error" (None at
    first). Raises Out if no reply was legal: the game catches it to end the match, or to continue without the seat.
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
