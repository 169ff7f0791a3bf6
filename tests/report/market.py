"""Matches and a summary of a made-up game: the report must know no game."""

from __future__ import annotations

from typing import Any

from parley.data.episode import Episode, Turn
from parley.games.base import Message, Result, Scenario

NASTY = "</pre><script>alert('model')</script>\x1b[31m & \"quoted\" <b>"


def episode(match: str, scenario: str, score: float, words: str = "hello", version: str = "iter_000") -> Episode:
    """A finished match: `buyer` was refused once, then both spoke."""
    turns = (
        Turn("buyer.1", "buyer", "act", "garbage"),
        Turn("buyer.2", "buyer", "retry", words),
        Turn("seller.1", "seller", "act", "fine", finish="length"),
    )
    result = Result(
        returns={"buyer": score, "seller": score / 2},
        outcome="deal" if score else "no deal",
        metrics={"joint": 1.5 * score, "deal_rate": float(score > 0), "points": {"buyer": score, "seller": score / 2}},
        marks={"buyer.1": {"reason": "no tag"}},
    )
    players, versions = (dict.fromkeys(("buyer", "seller"), name) for name in ("learner", version))
    return Episode(match, "market", 1, Scenario(scenario, {"price": 3}), 5, players, versions, turns, result)


def views(found: Episode) -> dict[str, tuple[Message, ...]]:
    """The private views as a replay would give them."""
    first, second, third = found.turns
    return {
        "buyer": (
            Message("system", "you buy <cheap>"),
            Message("assistant", first.text, first.request),
            Message("user", "say it again"),
            Message("assistant", second.text, second.request),
        ),
        "seller": (
            Message("system", "you sell"),
            Message("user", second.text),
            Message("assistant", third.text, third.request),
        ),
    }


def figure(mean: float, half: float = 0.2) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 8, "clusters": 4}


def table(joint: float, rate: float) -> dict[str, Any]:
    return {"joint": figure(joint), "deal_rate": figure(rate, 0.03), "points": figure(joint / 1.5)}


def summary(seed: int, gain: float, iterations: int, demonstrators: bool) -> dict[str, Any]:
    rows = []
    for k in range(iterations):
        joint, rate = 4.0 + gain * k + 0.1 * seed, min(0.4 + 0.1 * k, 1.0)
        measured = {
            "snapshot": f"iter_{k:03d}",
            "validation": table(joint, rate),
            "sampled": table(joint, rate),
            "greedy": table(joint + 1, min(rate + 0.2, 1.0)),
            "versus": {"start": table(joint - 0.5, rate)},
            "versus_greedy": {},
            "play": {"matches": 1024, "tokens": 52_120, "entropy": 7.6 - 0.05 * k} if k else {},
            **({"scores": {"kindness": figure(0.25)}} if k else {}),  # what a scorer said of the round
            "learn": {"steps": 64, "loss": 1.25 / k} if k else {},
        }
        seconds = {"play": 3.2, "learn": 5.0} if k else {"evaluate": 2.0}
        rows.append({"iteration": k, "round": k, "policies": {"learner": measured}, "seconds": seconds})
    return {
        "experiment": "market_tiny",
        "seed": seed,
        "seconds": 91.5,
        "cpu_seconds": 88.0,
        "best": iterations - 1,
        "policy": "learner",
        "metric": "joint",
        "start": "start",
        "demonstrators": table(5.5, 0.62) if demonstrators else None,
        "iterations": rows,
    }
