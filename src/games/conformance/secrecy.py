"""The check of secrets.

Where the private views tell nothing but what was said, a match of scenario A and one of scenario B that begin
alike for a seat, and in which everybody says the same, must look alike to that seat for as long as both ask the same
seats: that is tried, and needs no help from the game. A game whose rules disclose private facts while it runs (a hint,
a judge's verdict) has a method `secrets(scenario) -> {seat: [texts]}` instead: no other seat may see one of these texts
before a reply has contained it. A game that hides nothing returns {}. Services may be shown everything.

Public chance. Facts of a scenario that all seats see during the match (a card that is turned up) are no secrets: a
method `public(scenario) -> [texts]` lists their wordings, and both kinds of test remove these texts from messages and
from the observation's JSON. Give complete phrases ('the table shows K', '"public": "K"'; not 'K'), so that a private
fact of the same name is still found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ...system.conformance import need
from ...system.seeds import derive, rng
from ..base import Game, Request, Scenario, seats, services
from .plays import SPLITS, Play, answers, plain, played, plays, recorded


def secrets(game: Game, matches: int = 20, seed: int = 0) -> None:
    """No role is shown what only another seat may know (this module's docstring says how that is found out)."""
    pool = [each for split in SPLITS for each in game.scenarios(split) if len(seats(game, each)) > 1]
    if not pool:
        return
    declared = getattr(game, "secrets", None)
    if declared is not None:
        for play in plays(game, matches, seed):
            _unspoken(game, play, declared(play.scenario))
        return
    compared = 0
    for number in range(matches):
        name = derive(seed, "match", number)
        play = played(game, pool[derive(name, "scenario") % len(pool)], name, answers(game, name, 0.15 * (number % 2)))
        for seat in seats(game, play.scenario):
            compared += _compare(game, play, seat, _partners(game, play, seat, pool, name))
    need(
        "secrets",
        compared > 0,
        "no two scenarios begin alike for a seat, nothing could be compared: give the game a method secrets()",
    )


def _unspoken(game: Game, play: Play, kept: Mapping[str, Sequence[str]]) -> None:
    spoken, serving = "", services(game)
    for asked, replies in play.rounds:
        for request in [each for each in asked if each.seat not in serving]:
            shown = _bare(game, play.scenario, request)
            texts = (text for seat, own in kept.items() if seat != request.seat for text in own)
            leaks = [text for text in texts if text.casefold() in shown.casefold() and text.casefold() not in spoken]
            need(
                "secrets", not leaks, f"{request.id!r} of {play.scenario.id!r} shows {leaks[:1]}, which nobody has said"
            )
        spoken += "\n".join(reply.text for reply in replies).casefold()


def _bare(game: Game, scenario: Scenario, request: Request) -> str:
    """The request's texts, without the scenario's public ones."""
    shown = "\n".join([*(each.content for each in request.messages), plain(request.observation)])
    for text in getattr(game, "public", lambda scenario: ())(scenario):
        shown = shown.replace(text, "")
    return shown


def _alike(game: Game, one: tuple[Scenario, Request], other: tuple[Scenario, Request]) -> bool:
    """Whether two requests show the same, apart from public texts of their scenarios."""
    if _same(one[1], other[1]) or not hasattr(game, "public"):
        return _same(one[1], other[1])
    return one[1].options == other[1].options and _bare(game, *one) == _bare(game, *other)


def _partners(
    game: Game, play: Play, seat: str, pool: Sequence[Scenario], seed: int, tries: int = 300
) -> Iterator[Play]:
    """Plays up to two other scenarios that begin for `seat` like `play`, with the same replies."""
    place = next((turn for turn, request in enumerate(play.requests()) if request.seat == seat), None)
    if place is None:
        return
    first, found, chance = list(play.requests())[place], 0, rng(seed, "partners", seat)
    for scenario in chance.sample(pool, min(tries, len(pool))):
        begun = (
            []
            if scenario == play.scenario
            else list(played(game, scenario, play.seed, recorded(play), place + 1).requests())
        )
        if len(begun) > place and _same(begun[place], first):
            yield played(game, scenario, play.seed, recorded(play))
            found += 1
        if found == 2:
            return


def _same(one: Request, other: Request) -> bool:
    return one.messages == other.messages and one.observation == other.observation and one.options == other.options


def _compare(game: Game, play: Play, seat: str, others: Iterator[Play]) -> int:
    """The number of compared views of `seat`; matches are compared while they ask the same seats."""
    compared = 0
    for other in others:
        for (asked, _), (asked_there, _) in zip(play.rounds, other.rounds, strict=False):  # one may end earlier
            if [(request.id, request.kind) for request in asked] != [
                (request.id, request.kind) for request in asked_there
            ]:
                break
            for here, there in zip(asked, asked_there, strict=True):
                if here.seat == seat:
                    pair = f"{play.scenario.id!r} and {other.scenario.id!r}"
                    need(
                        "secrets",
                        _alike(game, (play.scenario, here), (other.scenario, there)),
                        f"{here.id!r} differs between {pair}, though they begin alike and all replies are equal. If "
                        "that is no secret but public chance, such as a card that is turned up, give the game a method "
                        "public(scenario) -> [texts] that lists its wordings",
                    )
                    compared += 1
    return compared
