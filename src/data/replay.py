"""Replays a recorded match from its replies, and checks that it is the same match."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ..games.base import Game, Json, Message, Reply, Request, Result
from .episode import Episode, Turn


class ReplayError(ValueError):
    """The record and the game differ; the message says where."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """result    the result of the replay, equal to the record
    views     seat -> its last view plus its own last reply (unless there was none: finish "context"), without probes
    requests  one request for each recorded turn
    """

    result: Result
    views: Mapping[str, tuple[Message, ...]]
    requests: tuple[Request, ...]


def replay(game: Game, episode: Episode) -> Replayed:
    """Replays `episode`. ReplayError names the first difference: game, request id, seat, kind or result.

    A record of another version of the game is accepted if its requests and its result are still the same.
    """
    played = f"{episode.game} version {episode.game_version}"
    if game.name != episode.game:
        raise ReplayError(f"match {episode.id} was played by {played}; this game is {game.name}")
    try:
        return _again(game, episode)
    except ReplayError as error:
        if game.version == episode.game_version:
            raise
        raise ReplayError(f"{error}. It was played by {played}; this game is version {game.version}") from None


def _again(game: Game, episode: Episode) -> Replayed:
    match = game.match(episode.scenario, episode.seed)
    views: dict[str, tuple[Message, ...]] = {}
    asked: list[Request] = []
    requests = match.start()
    while requests:
        turns = episode.turns[len(asked) : len(asked) + len(requests)]
        _compare(episode, len(asked), requests, turns)
        for request, turn in zip(requests, turns, strict=True):
            if turn.kind == "probe":
                continue
            own = () if turn.finish == "context" else (Message("assistant", turn.text, turn.request),)
            views[turn.seat] = (*request.messages, *own)
        asked.extend(requests)
        requests = match.step([Reply(turn.request, turn.text, turn.finish) for turn in turns])
    if len(asked) < len(episode.turns):
        raise ReplayError(f"match {episode.id} is over after {len(asked)} turns; the record has {len(episode.turns)}")
    result = match.result()
    for name, now, then in _differences(_plain(result), _plain(episode.result)):
        raise ReplayError(f"match {episode.id} ends with {name} {now!r}; the record says {then!r}")
    return Replayed(result, views, tuple(asked))


def _compare(episode: Episode, start: int, requests: Sequence[Request], turns: Sequence[Turn]) -> None:
    now = [(request.id, request.seat, request.kind) for request in requests]
    then = [(turn.request, turn.seat, turn.kind) for turn in turns]
    if now != then:
        raise ReplayError(
            f"match {episode.id}, turn {start}: the game asks (id, seat, kind) {now}; the record has {then}"
        )


def _plain(result: Result) -> dict[str, Json]:
    plain: dict[str, Json] = json.loads(json.dumps(asdict(result)))
    return plain


def _differences(now: dict[str, Json], then: dict[str, Json]) -> list[tuple[str, Json, Json]]:
    return [(name, now[name], then[name]) for name in now if now[name] != then[name]]
