"""The checks of the contract, one function each, but for that of secrets."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ...system.conformance import ConformanceError, need
from ...system.seeds import derive
from ..base import Game, Reply, Request, Result, Scenario, Tool, seats, services
from .plays import SPLITS, Answer, finished, plain, played, plays, recorded

FEW = "a split by hash needs dozens of clusters; with fewer, give one list for all and declare Facts(held_out=False)"


def scenarios(game: Game, matches: int = 20, seed: int = 0) -> None:
    """Every split has scenarios, the same ones on each call, with unique ids; no cluster is in two splits, unless the
    game declares held_out=False: then all splits are the same list."""
    owner: dict[str, str] = {}
    first = list(game.scenarios(SPLITS[0]))
    ids: set[str] = set()
    for split in SPLITS:
        found = list(game.scenarios(split))
        need("scenarios", bool(found), f"the split {split!r} is empty: {FEW}")
        need("scenarios", found == list(game.scenarios(split)), f"{split!r} is another list on the second call")
        if not game.facts.held_out:
            need("scenarios", found == first, f"{split!r} is another list than {SPLITS[0]!r}, declared is one for all")
            ids, owner = set(), {}
        for scenario in found:
            need("scenarios", scenario.id not in ids, f"two scenarios have the id {scenario.id!r}")
            before = owner.setdefault(scenario.cluster, split)
            need("scenarios", before == split, f"cluster {scenario.cluster!r} lies in {before!r} and in {split!r}")
            ids.add(scenario.id)


def seats_(game: Game, matches: int = 20, seed: int = 0) -> None:
    """Roles, services and scripts have different names, a service has a script or a tool, a scenario seats roles of the
    game."""
    serving = services(game)
    taken = sorted(serving.keys() & {*game.roles, *game.scripts()})
    need("seats", not taken, f"the services {taken} have the name of a role or of a script")
    for name, each in serving.items():
        need("seats", isinstance(each, Tool) or callable(each), f"{name!r} is served by {each!r}, no script or tool")
    for split in SPLITS:
        for scenario in game.scenarios(split):
            seated = seats(game, scenario)
            known = len(set(seated)) == len(seated) and set(seated) <= set(game.roles)
            need(
                "seats",
                bool(seated) and known,
                f"{scenario.id!r} seats {list(seated)}, roles are {list(game.roles)}, each once",
            )


def junk(game: Game, matches: int = 20, seed: int = 0) -> None:
    """No reply, however odd, makes a match raise."""
    for play in plays(game, matches, seed):
        need("junk", not play.crash, f"the match raised: {play.crash}")


def scripts(game: Game, matches: int = 20, seed: int = 0) -> None:
    """Every script answers every request to a role with text, and a service's script every request to the service."""
    for play in plays(game, matches, seed):
        need("scripts", not play.script_crash, f"a script failed {play.script_crash}")


def ends(game: Game, matches: int = 20, seed: int = 0) -> None:
    """A match asks at most `facts.max_requests` times."""
    for play in plays(game, matches, seed):
        asked, most = sum(1 for _ in play.requests()), game.facts.max_requests
        need("ends", asked <= most, f"scenario {play.scenario.id!r} asked {asked} times, declared are at most {most}")


def retries(game: Game, matches: int = 20, seed: int = 0) -> None:
    """A seat is asked to retry at most `facts.max_retries` times in a row."""
    for play in plays(game, matches, seed):
        run: dict[str, int] = {}
        for request in play.requests():
            run[request.seat] = run.get(request.seat, 0) + 1 if request.kind == "retry" else 0
            most = game.facts.max_retries
            need(
                "retries",
                run[request.seat] <= most,
                f"{request.id!r} is retry {run[request.seat]} in a row, declared are {most}",
            )


def requests(game: Game, matches: int = 20, seed: int = 0) -> None:
    """Requests go to seats of the game and have unique ids; a match with open requests has no result."""
    for play in plays(game, matches, seed):
        seen: set[str] = set()
        for request in play.requests():
            need(
                "requests",
                request.seat in (known := [*seats(game, play.scenario), *services(game)]),
                f"{request.id!r} goes to {request.seat!r}, seats are {known}",
            )
            need("requests", request.id not in seen, f"the id {request.id!r} is used twice in a match")
            need("requests", bool(request.messages), f"{request.id!r} shows its seat no message")
            seen.add(request.id)
    scenario = game.scenarios("train")[0]
    match = game.match(scenario, seed)
    need("requests", bool(match.start()), f"a match of {scenario.id!r} asks nobody")
    try:
        match.result()
    except RuntimeError:
        return
    raise ConformanceError("requests", "a match with open requests gave a result, expected RuntimeError")


def returns(game: Game, matches: int = 20, seed: int = 0) -> None:
    """The result has a return for every role of the match and for no service, an outcome, and names only seats and
    requests of the match."""
    for play in plays(game, matches, seed):
        if play.result is None:
            continue
        roles, end = set(seats(game, play.scenario)), play.result
        asked = {request.id for request in play.requests()}
        need("returns", isinstance(end, Result), f"the match gave a {type(end).__name__}, expected a Result")
        need("returns", set(end.returns) == roles, f"returns are for {sorted(end.returns)}, expected {sorted(roles)}")
        need(
            "returns",
            isinstance(end.outcome, str) and end.outcome != "",
            f"the outcome is {end.outcome!r}, expected a word",
        )
        blamed = isinstance(end.blame, tuple) and {*roles, *services(game)}.issuperset(end.blame)
        need("returns", blamed, f"blame is {end.blame!r}, expected a tuple of seats")
        named = {
            *end.outcome_by_seat,
            *(seat for number in end.metrics.values() if isinstance(number, Mapping) for seat in number),
        }
        need("returns", named <= roles, f"outcomes or metrics name {sorted(named - roles)}, roles are {sorted(roles)}")
        need(
            "returns", set(end.marks) <= asked, f"marks are on {sorted(set(end.marks) - asked)}, which were never asked"
        )


def marks(game: Game, matches: int = 20, seed: int = 0) -> None:
    """A reply followed by a retry is marked {"retry": reason}, so that the record alone shows that it was illegal."""
    for play, end in finished(game, matches, seed):
        last: dict[str, str] = {}
        for request in play.requests():
            before = last.get(request.seat, "")
            need(
                "marks",
                request.kind != "retry" or "retry" in end.marks.get(before, {}),
                f"the reply to {before!r} was answered by the retry {request.id!r} and has no mark 'retry' "
                f"(games.base.legal sets it)",
            )
            last[request.seat] = request.id


def facts(game: Game, matches: int = 20, seed: int = 0) -> None:
    """Returns are within the declared bounds, and add up to zero if declared."""
    low, high = game.facts.min_return, game.facts.max_return
    for play, end in finished(game, matches, seed):
        for seat, value in end.returns.items():
            need(
                "facts",
                low - 1e-9 <= value <= high + 1e-9,
                f"{seat!r} got {value} in {play.scenario.id!r}, declared {low} to {high}",
            )
        total = sum(end.returns.values())
        need(
            "facts",
            not game.facts.zero_sum or abs(total) < 1e-9,
            f"{play.scenario.id!r}: returns add up to {total}, declared zero-sum",
        )


def replay(game: Game, matches: int = 20, seed: int = 0) -> None:
    """The same scenario, seed and replies give the same requests and result, independent of other matches and of the
    order of simultaneous replies."""
    for play, end in finished(game, matches, seed):
        for other in (game.match(play.scenario, play.seed + 1), game.match(play.scenario, play.seed)):
            other.start()
        match = game.match(play.scenario, play.seed)
        asked = tuple(match.start())
        for expected, replies in play.rounds:
            need("replay", asked == expected, f"{play.scenario.id!r}: the same replies were followed by other requests")
            asked = tuple(match.step(replies[::-1]))
        need(
            "replay", not asked and match.result() == end, f"{play.scenario.id!r}: the same replies gave another result"
        )


def json_(game: Game, matches: int = 20, seed: int = 0) -> None:
    """Scenarios, requests and results are plain JSON, and unchanged after a round trip."""
    for play, end in finished(game, matches, seed):
        try:
            for thing in (asdict(play.scenario), *map(asdict, play.requests()), asdict(end)):
                same = plain(json.loads(plain(thing))) == plain(thing)
                need(
                    "json",
                    same and _string_keys(thing),
                    f"{play.scenario.id!r} has keys that are no text: {str(thing)[:200]}",
                )
        except (TypeError, ValueError) as error:
            raise ConformanceError("json", f"{play.scenario.id!r} is not plain JSON: {error}") from error
        back = Scenario(**json.loads(plain(asdict(play.scenario))))
        again = played(game, back, play.seed, recorded(play))
        need("json", again.result == end, f"{play.scenario.id!r} read back from JSON plays another match")


def _string_keys(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _string_keys(inner) for key, inner in value.items())
    return all(_string_keys(inner) for inner in value) if isinstance(value, list | tuple) else True


def global_random(game: Game, matches: int = 20, seed: int = 0) -> None:
    """A game does not touch the global state of `random` or NumPy."""
    before = _random_state()
    for split in SPLITS:
        game.scenarios(split)
    for _ in plays(game, matches, seed):
        pass
    need("global_random", _random_state() == before, "a match, script or scenario list drew from global randomness")


def _random_state() -> tuple[object, str]:
    numpy: Any = sys.modules.get("numpy")
    return random.getstate(), repr(numpy.random.get_state()) if numpy else ""


def views(game: Game, matches: int = 20, seed: int = 0) -> None:
    """A role's view only grows: the previous request's messages, then the seat's own reply verbatim, then new messages.

    Requests to a service may be independent; a probe and its reply are in no later view.
    """
    serving = services(game)
    for play in plays(game, matches, seed):
        last: dict[str, tuple[Request, Reply]] = {}
        for request, reply in zip(play.requests(), play.replies(), strict=True):
            if request.seat in serving:
                continue
            before, said = last.get(request.seat, (None, reply))
            shown = before.messages if before else ()
            need(
                "views",
                request.messages[: len(shown)] == shown,
                f"{request.id!r} shows another history than {before and before.id!r}",
            )
            fresh = request.messages[len(shown) :]
            if before:
                next_ = fresh[0].request if fresh else None
                need("views", next_ == before.id, f"{request.id!r} does not show the reply to {before.id!r} next")
                fresh, own = fresh[1:], fresh[0]
                told = own.role == "assistant" and own.content == said.text
                need(
                    "views", told, f"{request.id!r} shows the reply to {before.id!r} as {own.role} {own.content[:60]!r}"
                )
            brought = game.facts.history and before is None
            foreign = [
                message
                for message in fresh
                if (message.role == "assistant" and not brought) or message.request is not None
            ]
            need(
                "views",
                not foreign,
                f"{request.id!r} shows a reply that the seat did not give: {str(foreign[:1])[:120]}",
            )
            if request.kind != "probe":
                last[request.seat] = request, reply


def context(game: Game, matches: int = 20, seed: int = 0) -> None:
    """A reply with finish "context" ends the match with the outcome "context", and blames its seat."""
    for play, _ in finished(game, matches, seed):
        asked = list(play.requests())
        place = derive(play.seed, "context") % len(asked)
        lost = asked[place]
        end = played(game, play.scenario, play.seed, _outgrown(place, recorded(play)))
        need("context", not end.crash, f"the match raised: {end.crash}")
        over = len(list(end.requests())) - len(end.rounds[-1][0]) <= place
        need(
            "context",
            over and end.result is not None,
            f"{play.scenario.id!r} goes on after the view of {lost.id!r} no longer fitted: when legal() raises Out "
            "with outcome 'context', end the match with that outcome and blame",
        )
        told = (end.result.outcome, end.result.blame) if end.result else ("", ())
        need(
            "context",
            told[0] == "context" and lost.seat in told[1],
            f"outcome and blame are {told}, expected 'context' and {lost.seat!r} among the blamed",
        )


def _outgrown(place: int, answer: Answer) -> Answer:
    return lambda request, turn: Reply(request.id, "", "context") if turn == place else answer(request, turn)


def enumerable(game: Game, matches: int = 20, seed: int = 0) -> None:
    """A game that declares `facts.enumerable` has one list of scenarios and no other chance, and lists the legal
    replies of every request: none of them is refused, and equal views have equal lists."""
    if not game.facts.enumerable:
        return
    need("enumerable", not game.facts.held_out, "the splits differ: an enumerable game declares held_out=False")
    pool, choices = list(game.scenarios(SPLITS[0])), dict[object, list[str]]()
    for number in range(matches):
        name = derive(seed, "enumerable", number)
        scenario = pool[derive(name, "scenario") % len(pool)]
        play = played(game, scenario, name, _listed(name))
        need("enumerable", not play.script_crash, f"a request lists no legal replies: {play.script_crash}")
        again = played(game, scenario, name + 1, recorded(play))
        same = again.result == play.result and [*again.requests()] == [*play.requests()]
        need("enumerable", same, f"{scenario.id!r}: another seed changes what the same replies lead to")
        need(
            "enumerable",
            play.result is not None and not play.result.blame,
            f"{scenario.id!r}: a listed reply put a seat out",
        )
        for request in play.requests():
            legal = list((request.observation or {})["legal"])
            need("enumerable", request.kind != "retry", f"{request.id!r} refuses a reply that was listed as legal")
            need("enumerable", request.kind != "probe", f"{request.id!r} is a probe, whose reply its seat would forget")
            need("enumerable", len(set(legal)) == len(legal), f"{request.id!r} lists a reply twice: {legal}")
            known = choices.setdefault((request.seat, request.messages), legal)
            need("enumerable", known == legal, f"{request.id!r} lists {legal}, and {known} where the seat saw the same")


def _listed(seed: int) -> Answer:
    """Random replies from those that each request lists."""

    def answer(request: Request, turn: int) -> Reply:
        legal = (request.observation or {})["legal"]
        return Reply(request.id, legal[derive(seed, "reply", turn) % len(legal)])

    return answer
