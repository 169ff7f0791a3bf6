"""Converts foreign logs to matches, so that credit can select among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import nan
from sys import float_info

from ..games.base import Json, Message, Result, Scenario
from .episode import Episode, Turn
from .formats.messages import Log

VERSION = "imported"  # policy version of foreign players


def episode(rows: Sequence[tuple[str, Log]], player: str) -> tuple[Episode, Mapping[str, Sequence[Message]]]:
    """Builds (match, {seat: view}) from the (id, log) rows of one match, with `player` in every seat.

    Replies keep the ids of their requests and have no token ids. Numbers in a log's meta become metrics of its seat; a
    missing payoff is NaN.
    """
    name, first = rows[0]
    logs: dict[str, Log] = {}
    for at, (_, log) in enumerate(rows):
        seat = str(log.meta.get("role") or "seat")
        logs[f"{seat}.{at}" if seat in logs else seat] = log
    views = {seat: _asked(log, seat) for seat, log in logs.items()}
    metrics = _metrics(logs)
    payoffs = {seat: log.meta.get("payoff") for seat, log in logs.items()}
    returns = {seat: nan if (told := _number(payoff)) is None else told for seat, payoff in payoffs.items()}
    outcomes = {seat: str(log.meta.get("outcome") or "unknown") for seat, log in logs.items()}
    marks = {f"{seat}.{at}": {"retry": "rejected"} for seat, log in logs.items() for at in log.rejected}
    turns = (
        Turn(message.request, seat, "act", message.content)
        for seat, view in views.items()
        for message in view
        if message.request is not None
    )
    scenario = Scenario(str(first.meta.get("scenario") or name), {})
    result = Result(returns, next(iter(outcomes.values())), outcomes, (), metrics, marks)
    played = Episode(
        id=name,
        game=str(first.meta.get("game") or "conversation"),
        game_version=0,
        scenario=scenario,
        seed=0,
        players=dict.fromkeys(views, player),
        policies=dict.fromkeys(views, VERSION),
        turns=tuple(turns),
        result=result,
    )
    return played, views


def _metrics(logs: Mapping[str, Log]) -> dict[str, float | dict[str, float]]:
    """The numbers in meta by name: one number if all seats agree, else one per seat that has it."""
    found: dict[str, dict[str, float]] = {}
    for seat, log in logs.items():
        for key, value in log.meta.items():
            if (number := _number(value)) is not None:
                found.setdefault(key, {})[seat] = number
    alike = {key: len(told) == len(logs) and len(set(told.values())) == 1 for key, told in found.items()}
    return {key: next(iter(told.values())) if alike[key] else told for key, told in found.items()}


def _number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) <= float_info.max else None


def _asked(log: Log, seat: str) -> tuple[Message, ...]:
    return tuple(
        replace(message, request=f"{seat}.{at}") if message.role == "assistant" else message
        for at, message in enumerate(log.messages)
    )
