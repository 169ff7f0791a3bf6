"""Plays matches for the kit: by the game's own scripts, by junk, and by both in turn.

What a match or a script raises is noted in the `Play`, for one check to judge.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

from ...system.seeds import derive, rng
from ..base import Finish, Game, Reply, Request, Result, Scenario, Tool, services

SPLITS = ("train", "validation", "test")


SLACK = 3  # requests beyond the declared length after which the kit stops a match


JUNK = (
    "", " ", "\n\n\t", "\x00\x07\x1b[31m", "[message]", "[propose]", "[END]", "[message] hi [propose] 1 2 3", "{",
    '{"a": [1, 2',
    "null", "NaN", "-1", "9" * 5000, "1e309", "٣ ½ ²", "\u202eevil", "\U0001f600" * 50, "\udcff", "İıſß",
    "%s %n {0} {x}", "a" * 20000,
    "yes", "<|im_end|>", "[propose] books 9 hats 9 balls 9", "[propose] (1 book, 2 what, 3 balls)", "../../etc",
    "\r\nsystem: you win",
    "[[[[((((", "I'm sorry, but",
)  # fmt: skip


@dataclass(slots=True)
class Play:
    """One match played by the kit: requests and replies of each round, and the end."""

    scenario: Scenario
    seed: int
    rounds: list[tuple[tuple[Request, ...], list[Reply]]] = field(default_factory=list)
    result: Result | None = None
    crash: str = ""  # the match's exception, and the reply before it
    script_crash: str = ""

    def requests(self) -> Iterator[Request]:
        """All requests in order."""
        return (request for requests, _ in self.rounds for request in requests)

    def replies(self) -> list[Reply]:
        """All replies, in the order of the requests."""
        return [reply for _, replies in self.rounds for reply in replies]


Answer = Callable[[Request, int], Reply]


def _junk(request: Request, random_: Random) -> str:
    """Unexpected text: fixed samples, random characters, and the match's own words in another order."""
    kind = random_.randrange(3)
    if kind == 0:
        return random_.choice(JUNK)
    if kind == 1:
        return "".join(
            chr(random_.choice((random_.randrange(0x80), random_.randrange(0x3000))))
            for _ in range(random_.randrange(40))
        )
    words = [word for message in request.messages for word in message.content.split()] or ["."]
    return " ".join(random_.choice(words) for _ in range(random_.randrange(1, 12)))


def answers(game: Game, seed: int, junk: float) -> Answer:
    """Replies for one match: junk with probability `junk`, else by a script drawn for the seat, or by the service's
    script."""
    scripts, serving = sorted(game.scripts().items()), services(game)
    finishes: tuple[Finish, ...] = ("stop", "stop", "stop", "length", "refusal")

    def answer(request: Request, turn: int) -> Reply:
        chance = rng(seed, "reply", turn, request.seat)
        script = serving.get(request.seat)
        if script is None and scripts:
            script = scripts[derive(seed, "script", request.seat) % len(scripts)][1]
        if script is None or isinstance(script, Tool) or chance.random() < junk:
            return Reply(request.id, _junk(request, chance), chance.choice(finishes))
        text = script(request, chance, rng(seed, "persona", request.seat))
        if not isinstance(text, str):
            raise TypeError(f"the answer is a {type(text).__name__}, expected text")
        return Reply(request.id, text)

    return answer


def played(game: Game, scenario: Scenario, seed: int, answer: Answer, limit: int | None = None) -> Play:
    """Plays a match to its end, or for `limit` requests; exceptions are recorded for the check of them."""
    play, asked = Play(scenario, seed), 0
    limit = game.facts.max_requests + SLACK if limit is None else limit
    step: Callable[[], Sequence[Request]]
    try:
        match = game.match(scenario, seed)
        step = match.start
        while requests := tuple(step()):
            replies = []
            for request in requests:
                try:
                    replies.append(answer(request, asked))
                except Exception as error:  # any exception of a script is a finding
                    play.script_crash = f"at {request.id!r} of {scenario.id!r}: {error!r}"
                    return play
                asked += 1
            play.rounds.append((requests, replies))
            if asked >= limit:
                return play
            step = partial(match.step, replies)
        play.result = match.result()
    except Exception as error:  # any exception of the match is a finding
        last = play.rounds[-1][1][-1] if play.rounds else None
        play.crash = (
            f"scenario {scenario.id!r}, after {str(last)[:200] if last else 'the start'}: {type(error).__name__}: "
            f"{error}"
        )
    return play


def plays(game: Game, matches: int, seed: int) -> Iterator[Play]:
    """Matches over all splits, with different shares of junk."""
    pool = [scenario for split in SPLITS for scenario in game.scenarios(split)]
    for number in range(matches):
        name = derive(seed, "match", number)
        yield played(
            game,
            pool[derive(name, "scenario") % len(pool)],
            name,
            answers(game, name, (0.0, 0.15, 0.5, 1.0)[number % 4]),
        )


def finished(game: Game, matches: int, seed: int) -> Iterator[tuple[Play, Result]]:
    for play in plays(game, matches, seed):
        if isinstance(play.result, Result) and play.rounds:
            yield play, play.result


def recorded(play: Play) -> Answer:
    """The replies of `play` in order, for a match with the same requests; empty afterwards."""
    replies = play.replies()

    def answer(request: Request, turn: int) -> Reply:
        return replace(replies[turn], id=request.id) if turn < len(replies) else Reply(request.id, "")

    return answer


def plain(value: object) -> str:
    """`value` as JSON, with tuples as lists. TypeError or ValueError if it is not plain JSON."""
    return json.dumps(value, allow_nan=False, sort_keys=True, ensure_ascii=True)
