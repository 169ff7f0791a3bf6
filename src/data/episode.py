"""The stored record of one match (a trajectory of all seats): enough to replay it exactly and to train on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, TypeAlias

from ..games.base import Finish, Json, Result, Scenario
from .typed import wrong

SCHEMA = 2  # 1 (parley 0.1.0) can be read, too: it lacks parent, thought and seconds, and blames at most one seat

Extra: TypeAlias = Mapping[str, Json]
"""Unknown fields: kept, and written back unchanged."""


@dataclass(frozen=True, slots=True)
class Call:
    """The token ids and log-probs of one generation by a language model.

    The prompt was `stream[:shared] + prompt_ids`, where `stream` is the prompt and reply of the request `parent` of the
    same seat; the reply is `sampled_ids`. `logprobs` [len(sampled_ids)] in nats are raw: temperature 1, before any
    truncation. `fork` is the reason why the history could not be extended (then `shared` is shorter than the parent's
    stream).
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
    """One request and its reply, in the order of play.

    text      the reply as the game saw it; thought: the player's reasoning before it
    call      None for a player without tokens
    seconds   from request to reply, if the player measures it (a person, a server, a tool)
    """

    request: str
    seat: str
    kind: str
    text: str
    finish: Finish = "stop"
    call: Call | None = None
    thought: str = ""
    seconds: float | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished match.

    players, policies   the player in each seat, and the version of its policy
    parent              (match id, turns): the first `turns` turns come from that match, the rest continues it
    """

    id: str
    game: str
    game_version: int | str
    scenario: Scenario
    seed: int
    players: Mapping[str, str]
    policies: Mapping[str, str]
    turns: tuple[Turn, ...]
    result: Result
    parent: tuple[str, int] | None = None
    extra: Extra = field(default_factory=dict)

    @property
    def own(self) -> tuple[Turn, ...]:
        """The turns played in this match, without those of its parent, which are neither trained on nor counted."""
        return self.turns[self.parent[1] :] if self.parent else self.turns

    def refused(self, seat: str) -> frozenset[str]:
        """Ids of the requests to `seat` whose replies were illegal: the seat's next request was a retry, the game
        marked the reply as retried, or it is the last reply of a seat to blame."""
        own = [turn for turn in self.turns if turn.seat == seat and turn.kind != "probe"]
        retried = {turn.request for turn, after in pairwise(own) if after.kind == "retry"}
        marked = {turn.request for turn in own if "retry" in self.result.marks.get(turn.request, {})}
        last = {turn.request for turn in own[-1:] if seat in self.result.blame}
        return frozenset(retried | marked | last)

    def to_json(self) -> dict[str, Json]:
        """Plain JSON; `from_json` returns an equal episode."""
        data: dict[str, Json] = json.loads(json.dumps(written(self), default=written))
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Episode:
        """Reads the result of `to_json`, or schema 1. ValueError for a later schema or wrong values, KeyError or
        TypeError for a foreign object."""
        if data.get("schema") not in (1, SCHEMA):
            raise ValueError(f"episode schema {data.get('schema')!r}, this parley reads 1 and {SCHEMA}")
        known = _known(Episode, {key: value for key, value in data.items() if key != "schema"})
        known["scenario"] = Scenario(**data["scenario"])
        known["turns"] = tuple(turn_from_json(turn) for turn in data["turns"])
        known["result"] = _result(data["result"])
        known["parent"] = tuple(data["parent"]) if data.get("parent") else None
        return _checked(Episode(**known))


def _checked(episode: Episode) -> Episode:
    """Returns `episode` after checking the types of its fields and the parents of its calls. ValueError names the
    fault."""
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


def written(part: Any) -> dict[str, Any]:
    """The fields of a part of an episode, for `json.dumps(…, default=written)`; TypeError for anything else.

    Fields that are None are left out, because a round has millions of turns.
    """
    if not isinstance(part, (Episode, Turn, Call, Scenario, Result)):
        raise TypeError(f"{type(part).__name__} is not plain JSON")
    data = {name: getattr(part, name) for name in part.__slots__}
    extra = data.pop("extra", {})
    if isinstance(part, Turn):
        data = {name: value for name, value in data.items() if name not in _OFTEN_EMPTY or value != _OFTEN_EMPTY[name]}
    if isinstance(part, Episode):
        data = {"schema": SCHEMA, **data}
    return {**data, **extra} if extra else data


_OFTEN_EMPTY: Mapping[str, Json] = {"thought": "", "seconds": None}
_ONE: dict[int, int] = {}  # one int object per token id: a long round's ids take a quarter of the memory


def turn_from_json(data: Mapping[str, Any]) -> Turn:
    """Reads a turn written by `written`. KeyError or TypeError for a foreign object."""
    call = data["call"]
    if call is not None:
        ids = {key: tuple(map(_ONE.setdefault, call[key], call[key])) for key in ("prompt_ids", "sampled_ids")}
        call = Call(**{**call, **ids, "logprobs": tuple(call["logprobs"])})
    return Turn(**{**_known(Turn, data), "call": call})


def _known(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` as arguments of `kind`; unknown keys go to `extra`."""
    if data.keys() <= (names := _NAMES[kind]):
        return dict(data)
    return {key: data[key] for key in data.keys() & names} | {
        "extra": {key: value for key, value in data.items() if key not in names}
    }


_NAMES = {kind: frozenset(each.name for each in fields(kind)) - {"extra"} for kind in (Episode, Turn)}


def _result(data: Mapping[str, Any]) -> Result:
    """Reads the result; schema 1 blames a seat or None, schema 2 a list of seats."""
    blame = data.get("blame")
    return Result(**{**data, "blame": (blame,) if isinstance(blame, str) else tuple(blame or ())})


@dataclass(frozen=True, slots=True)
class Stream:
    """Prompts and replies of one seat's model as token ids [L]; `spans` are the sampled parts: request -> [start,
    end)."""

    seat: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # of the sampled tokens in nats, span after span
    spans: Mapping[str, tuple[int, int]]


def streams(episode: Episode, seat: str) -> list[Stream]:
    """The token streams of a seat: one if every turn extended the previous one, plus one for each fork.

    A span belongs to exactly one stream, the first that contains it, so no token is trained on twice. Turns of a parent
    match are context: they have no span. A probe, which no later turn extends, ends a stream of its own.
    """
    done: dict[str, Stream] = {}  # request id -> the stream that ends with its sampled ids
    extended: set[str] = set()
    inherited = len(episode.turns) - len(episode.own)
    for number, turn in enumerate(episode.turns):
        call = turn.call
        if turn.seat != seat or call is None:
            continue
        base = done[call.parent] if call.parent is not None else Stream(seat, (), (), {})
        whole = call.shared == len(base.token_ids) and turn.kind != "probe"
        if whole and call.parent is not None and call.parent not in extended:
            extended.add(call.parent)
            spans, logprobs = dict(base.spans), base.logprobs
        else:  # a fork: the history before `shared` is context here
            spans, logprobs = {}, ()
        prompt = base.token_ids[: call.shared] + call.prompt_ids
        if number >= inherited:
            spans[turn.request] = (len(prompt), len(prompt) + len(call.sampled_ids))
            logprobs += call.logprobs
        done[turn.request] = Stream(seat, prompt + call.sampled_ids, logprobs, spans)
    return [stream for request, stream in done.items() if request not in extended and stream.spans]
