"""The durable record of one match: enough to replay it exactly and to train on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from ..games.base import Finish, Json, Result, Scenario
from .typed import wrong

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a language model, in token ids.

    The model saw `stream[:shared] + prompt_ids`, where `stream` is everything that the request `parent` of the same
    seat saw and sampled, and sampled `sampled_ids`. `logprobs` are raw: temperature 1, before any truncation.
    `fork` says why the history could not simply be extended (then `shared` ends before the parent's stream does).
    """

    prompt_ids: tuple[int, ...]
    sampled_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    policy: str  # version of the snapshot that sampled
    parent: str | None = None
    shared: int = 0
    fork: str | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Turn:
    """One request and its reply, in the order in which the match consumed them. `call` is None for who has no
    tokens."""

    request: str
    seat: str
    kind: str
    text: str
    finish: Finish = "stop"
    call: Call | None = None


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished match. `players` and `policies` say who sat in each seat, and with which version."""

    id: str
    game: str
    game_version: int
    scenario: Scenario
    seed: int
    players: Mapping[str, str]
    policies: Mapping[str, str]
    turns: tuple[Turn, ...]
    result: Result

    def refused(self, seat: str) -> frozenset[str]:
        """The requests whose replies by `seat` were illegal, which nobody is trained on: the seat's next request was a
        retry, the game marked them as retried, or it is the last reply of a seat that is to blame."""
        own = [turn for turn in self.turns if turn.seat == seat]
        retried = {turn.request for turn, after in pairwise(own) if after.kind == "retry"}
        marked = {turn.request for turn in own if "retry" in self.result.marks.get(turn.request, {})}
        last = {turn.request for turn in own[-1:] if seat in self.result.blame}
        return frozenset(retried | marked | last)

    def to_json(self) -> dict[str, Json]:
        """Plain JSON; `from_json` gives back an equal episode."""
        return {"schema": SCHEMA, **asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Episode:
        """Reads what `to_json` wrote. ValueError for another schema, KeyError or TypeError for a foreign object."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"episode schema {data.get('schema')!r}, this parley reads {SCHEMA}")
        rest = {key: value for key, value in data.items() if key != "schema"}
        rest["scenario"] = Scenario(**data["scenario"])
        rest["turns"] = tuple(_turn(turn) for turn in data["turns"])
        rest["result"] = _result(data["result"])
        return _checked(Episode(**rest))


def _checked(episode: Episode) -> Episode:
    """`episode`, whose fields have the stated types and whose calls hang together. ValueError says what is wrong."""
    if (fault := wrong(episode)) is not None:
        raise ValueError(f"no episode: {fault}")
    seats = {turn.request: turn.seat for turn in episode.turns}
    for turn in episode.turns:
        if (call := turn.call) is not None and (
            call.shared < 0
            or (call.parent is not None and seats.get(call.parent) != turn.seat)
            or len(call.logprobs) not in (0, len(call.sampled_ids))
        ):
            raise ValueError(f"no episode: the call of {turn.request} does not extend a call of its seat")
    return episode


def _result(data: Mapping[str, Any]) -> Result:
    """A stored result; records of version 0.1.0 name one seat to blame, or None."""
    blame = data["blame"]
    return Result(**{**data, "blame": (blame,) if isinstance(blame, str) else tuple(blame or ())})


_ONE: dict[int, int] = {}  # each token id once: a long round's ids take a quarter of the room


def _turn(data: Mapping[str, Any]) -> Turn:
    call = data["call"]
    if call is not None:
        ids = {key: tuple(map(_ONE.setdefault, call[key], call[key])) for key in ("prompt_ids", "sampled_ids")}
        call = Call(**{**call, **ids, "logprobs": tuple(call["logprobs"])})
    return Turn(**{**data, "call": call})


@dataclass(frozen=True, slots=True)
class Stream:
    """What one seat's model saw and said, as token ids [L]; `spans` are the sampled parts: request -> [start, end)."""

    seat: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # of the sampled tokens, span after span
    spans: Mapping[str, tuple[int, int]]


def streams(episode: Episode, seat: str) -> list[Stream]:
    """The token streams of a seat: one when every turn extended the last, one more for each fork.

    A span stands in exactly one stream, the first that holds it, so no token is trained on twice.
    """
    done: dict[str, Stream] = {}  # request -> the stream that ends with its sampled ids
    extended: set[str] = set()
    for turn in episode.turns:
        call = turn.call
        if turn.seat != seat or call is None:
            continue
        base = done[call.parent] if call.parent is not None else Stream(seat, (), (), {})
        whole = call.shared == len(base.token_ids)
        if whole and call.parent is not None and call.parent not in extended:
            extended.add(call.parent)
            spans, logprobs = dict(base.spans), base.logprobs
        else:  # a fork: the history before `shared` is context here
            spans, logprobs = {}, ()
        prompt = base.token_ids[: call.shared] + call.prompt_ids
        spans[turn.request] = (len(prompt), len(prompt) + len(call.sampled_ids))
        done[turn.request] = Stream(seat, prompt + call.sampled_ids, logprobs + call.logprobs, spans)
    return [stream for request, stream in done.items() if request not in extended]
