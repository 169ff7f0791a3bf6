"""The conformance kit: tests any game against the contract of `parley.games.base`. It needs only the game.

    from parley.games import conformance
    conformance.check(MyGame())                              # raises ConformanceError, which names the check that
    failed

    @pytest.mark.parametrize("name", conformance.CHECKS)     # or each check as a test of its own
    def test_contract(name): conformance.CHECKS[name](MyGame(), matches=20, seed=0)

Matches are played by the game's own scripts, by junk, and by a mix; without scripts the replies are junk and words from
the game's own texts. Services are played by the game's scripts; tools are never called, and replaced by such words.
Each check tests one property and ignores matches that violate another one.

Secrets. By default the kit compares pairs of matches: if scenarios A and B begin alike for a seat, and all replies are
equal, the seat's views must stay equal for as long as both matches ask the same seats. A game whose rules disclose
private facts during play (a hint, a judge's verdict) needs a method `secrets(scenario) -> {seat: [texts]}` instead: no
other seat may see one of these texts before a reply has contained it. A game that hides nothing returns {}. Services
may see everything.

Public chance. Facts of a scenario that all seats see during the match (a card that is turned up) are no secrets: a
method `public(scenario) -> [texts]` lists their wordings, and both kinds of test remove these texts from messages and
from the observation's JSON. Give complete phrases ('the table shows K', '"public": "K"'; not 'K'), so that a private
fact of the same name is still found.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from ..system.seeds import derive, rng
from .base import Finish, Game, Reply, Request, Result, Scenario, Tool, seats, services

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


class ConformanceError(AssertionError):
    """A game broke its contract. `check` is the name of the check that found it."""

    def __init__(self, check: str, what: str) -> None:
        super().__init__(f"{check}: {what}")
        self.check = check


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


def check(game: Game, matches: int = 20, seed: int = 0) -> None:
    """Runs all checks on `matches` matches each; raises ConformanceError for the first that fails."""
    for run in CHECKS.values():
        run(game, matches, seed)


def _need(check: str, true: bool, what: str) -> None:
    if not true:
        raise ConformanceError(check, what)


# How matches are played


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


def _answer(game: Game, seed: int, junk: float) -> Answer:
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


def _play(game: Game, scenario: Scenario, seed: int, answer: Answer, limit: int | None = None) -> Play:
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


def _plays(game: Game, matches: int, seed: int) -> Iterator[Play]:
    """Matches over all splits, with different shares of junk."""
    pool = [scenario for split in SPLITS for scenario in game.scenarios(split)]
    for number in range(matches):
        name = derive(seed, "match", number)
        yield _play(
            game,
            pool[derive(name, "scenario") % len(pool)],
            name,
            _answer(game, name, (0.0, 0.15, 0.5, 1.0)[number % 4]),
        )


def _finished(game: Game, matches: int, seed: int) -> Iterator[tuple[Play, Result]]:
    for play in _plays(game, matches, seed):
        if isinstance(play.result, Result) and play.rounds:
            yield play, play.result


def _plain(value: object) -> str:
    """`value` as JSON, with tuples as lists. TypeError or ValueError if it is not plain JSON."""
    return json.dumps(value, allow_nan=False, sort_keys=True, ensure_ascii=True)


# The checks


def scenarios(game: Game, matches: int = 20, seed: int = 0) -> None:
    """Every split has scenarios, the same ones on each call, with unique ids; no cluster is in two splits, unless the
    game declares held_out=False: then all splits are the same list."""
    owner: dict[str, str] = {}
    first = list(game.scenarios(SPLITS[0]))
    ids: set[str] = set()
    for split in SPLITS:
        found = list(game.scenarios(split))
        _need("scenarios", bool(found), f"the split {split!r} is empty")
        _need("scenarios", found == list(game.scenarios(split)), f"{split!r} is another list on the second call")
        if not game.facts.held_out:
            _need("scenarios", found == first, f"{split!r} is another list than {SPLITS[0]!r}, declared is one for all")
            ids, owner = set(), {}
        for scenario in found:
            _need("scenarios", scenario.id not in ids, f"two scenarios have the id {scenario.id!r}")
            before = owner.setdefault(scenario.cluster, split)
            _need("scenarios", before == split, f"cluster {scenario.cluster!r} lies in {before!r} and in {split!r}")
            ids.add(scenario.id)


def seats_(game: Game, matches: int = 20, seed: int = 0) -> None:
    """Roles, services and scripts have different names, a service has a script or a tool, a scenario seats roles of the
    game."""
    serving = services(game)
    taken = sorted(serving.keys() & {*game.roles, *game.scripts()})
    _need("seats", not taken, f"the services {taken} have the name of a role or of a script")
    for name, each in serving.items():
        _need("seats", isinstance(each, Tool) or callable(each), f"{name!r} is served by {each!r}, no script or tool")
    for split in SPLITS:
        for scenario in game.scenarios(split):
            seated = seats(game, scenario)
            known = len(set(seated)) == len(seated) and set(seated) <= set(game.roles)
            _need(
                "seats",
                bool(seated) and known,
                f"{scenario.id!r} seats {list(seated)}, roles are {list(game.roles)}, each once",
            )


def junk(game: Game, matches: int = 20, seed: int = 0) -> None:
    """No reply, however odd, makes a match raise."""
    for play in _plays(game, matches, seed):
        _need("junk", not play.crash, f"the match raised: {play.crash}")


def scripts(game: Game, matches: int = 20, seed: int = 0) -> None:
    """Every script answers every request to a role with text, and a service's script every request to the service."""
    for play in _plays(game, matches, seed):
        _need("scripts", not play.script_crash, f"a script failed {play.script_crash}")


def ends(game: Game, matches: int = 20, seed: int = 0) -> None:
    """A match asks at most `facts.max_requests` times."""
    for play in _plays(game, matches, seed):
        asked, most = sum(1 for _ in play.requests()), game.facts.max_requests
        _need("ends", asked <= most, f"scenario {play.scenario.id!r} asked {asked} times, declared are at most {most}")


def retries(game: Game, matches: int = 20, seed: int = 0) -> None:
    """A seat is asked to retry at most `facts.max_retries` times in a row."""
    for play in _plays(game, matches, seed):
        run: dict[str, int] = {}
        for request in play.requests():
            run[request.seat] = run.get(request.seat, 0) + 1 if request.kind == "retry" else 0
            most = game.facts.max_retries
            _need(
                "retries",
                run[request.seat] <= most,
                f"{request.id!r} is retry {run[request.seat]} in a row, declared are {most}",
            )


def requests(game: Game, matches: int = 20, seed: int = 0) -> None:
    """Requests go to seats of the game and have unique ids; a match with open requests has no result."""
    for play in _plays(game, matches, seed):
        seen: set[str] = set()
        for request in play.requests():
            _need(
                "requests",
                request.seat in (known := [*seats(game, play.scenario), *services(game)]),
                f"{request.id!r} goes to {request.seat!r}, seats are {known}",
            )
            _need("requests", request.id not in seen, f"the id {request.id!r} is used twice in a match")
            _need("requests", bool(request.messages), f"{request.id!r} shows its seat no message")
            seen.add(request.id)
    scenario = game.scenarios("train")[0]
    match = game.match(scenario, seed)
    _need("requests", bool(match.start()), f"a match of {scenario.id!r} asks nobody")
    try:
        match.result()
    except RuntimeError:
        return
    raise ConformanceError("requests", "a match with open requests gave a result, expected RuntimeError")


def returns(game: Game, matches: int = 20, seed: int = 0) -> None:
    """The result has a return for every role of the match and for no service, an outcome, and names only seats and
    requests of the match."""
    for play in _plays(game, matches, seed):
        if play.result is None:
            continue
        roles, end = set(seats(game, play.scenario)), play.result
        asked = {request.id for request in play.requests()}
        _need("returns", isinstance(end, Result), f"the match gave a {type(end).__name__}, expected a Result")
        _need("returns", set(end.returns) == roles, f"returns are for {sorted(end.returns)}, expected {sorted(roles)}")
        _need(
            "returns",
            isinstance(end.outcome, str) and end.outcome != "",
            f"the outcome is {end.outcome!r}, expected a word",
        )
        blamed = isinstance(end.blame, tuple) and {*roles, *services(game)}.issuperset(end.blame)
        _need("returns", blamed, f"blame is {end.blame!r}, expected a tuple of seats")
        named = {
            *end.outcome_by_seat,
            *(seat for number in end.metrics.values() if isinstance(number, Mapping) for seat in number),
        }
        _need("returns", named <= roles, f"outcomes or metrics name {sorted(named - roles)}, roles are {sorted(roles)}")
        _need(
            "returns", set(end.marks) <= asked, f"marks are on {sorted(set(end.marks) - asked)}, which were never asked"
        )


def marks(game: Game, matches: int = 20, seed: int = 0) -> None:
    """A reply followed by a retry is marked {"retry": reason}, so that the record alone shows that it was illegal."""
    for play, end in _finished(game, matches, seed):
        last: dict[str, str] = {}
        for request in play.requests():
            before = last.get(request.seat, "")
            _need(
                "marks",
                request.kind != "retry" or "retry" in end.marks.get(before, {}),
                f"the reply to {before!r} was answered by the retry {request.id!r} and has no mark 'retry' "
                f"(games.base.legal sets it)",
            )
            last[request.seat] = request.id


def facts(game: Game, matches: int = 20, seed: int = 0) -> None:
    """Returns are within the declared bounds, and add up to zero if declared."""
    low, high = game.facts.min_return, game.facts.max_return
    for play, end in _finished(game, matches, seed):
        for seat, value in end.returns.items():
            _need(
                "facts",
                low - 1e-9 <= value <= high + 1e-9,
                f"{seat!r} got {value} in {play.scenario.id!r}, declared {low} to {high}",
            )
        total = sum(end.returns.values())
        _need(
            "facts",
            not game.facts.zero_sum or abs(total) < 1e-9,
            f"{play.scenario.id!r}: returns add up to {total}, declared zero-sum",
        )


def replay(game: Game, matches: int = 20, seed: int = 0) -> None:
    """The same scenario, seed and replies give the same requests and result, independent of other matches and of the
    order of simultaneous replies."""
    for play, end in _finished(game, matches, seed):
        for other in (game.match(play.scenario, play.seed + 1), game.match(play.scenario, play.seed)):
            other.start()
        match = game.match(play.scenario, play.seed)
        asked = tuple(match.start())
        for expected, replies in play.rounds:
            _need(
                "replay", asked == expected, f"{play.scenario.id!r}: the same replies were followed by other requests"
            )
            asked = tuple(match.step(replies[::-1]))
        _need(
            "replay", not asked and match.result() == end, f"{play.scenario.id!r}: the same replies gave another result"
        )


def json_(game: Game, matches: int = 20, seed: int = 0) -> None:
    """Scenarios, requests and results are plain JSON, and unchanged after a round trip."""
    for play, end in _finished(game, matches, seed):
        try:
            for thing in (asdict(play.scenario), *map(asdict, play.requests()), asdict(end)):
                same = _plain(json.loads(_plain(thing))) == _plain(thing)
                _need(
                    "json",
                    same and _string_keys(thing),
                    f"{play.scenario.id!r} has keys that are no text: {str(thing)[:200]}",
                )
        except (TypeError, ValueError) as error:
            raise ConformanceError("json", f"{play.scenario.id!r} is not plain JSON: {error}") from error
        back = Scenario(**json.loads(_plain(asdict(play.scenario))))
        again = _play(game, back, play.seed, _recorded(play))
        _need("json", again.result == end, f"{play.scenario.id!r} read back from JSON plays another match")


def _string_keys(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _string_keys(inner) for key, inner in value.items())
    return all(_string_keys(inner) for inner in value) if isinstance(value, list | tuple) else True


def global_random(game: Game, matches: int = 20, seed: int = 0) -> None:
    """A game does not touch the global state of `random` or NumPy."""
    before = _random_state()
    for split in SPLITS:
        game.scenarios(split)
    for _ in _plays(game, matches, seed):
        pass
    _need("global_random", _random_state() == before, "a match, script or scenario list drew from global randomness")


def _random_state() -> tuple[object, str]:
    numpy: Any = sys.modules.get("numpy")
    return random.getstate(), repr(numpy.random.get_state()) if numpy else ""


def views(game: Game, matches: int = 20, seed: int = 0) -> None:
    """A role's view only grows: the previous request's messages, then the seat's own reply verbatim, then new messages.

    Requests to a service may be independent; a probe and its reply are in no later view.
    """
    serving = services(game)
    for play in _plays(game, matches, seed):
        last: dict[str, tuple[Request, Reply]] = {}
        for request, reply in zip(play.requests(), play.replies(), strict=True):
            if request.seat in serving:
                continue
            before, said = last.get(request.seat, (None, reply))
            shown = before.messages if before else ()
            _need(
                "views",
                request.messages[: len(shown)] == shown,
                f"{request.id!r} shows another history than {before and before.id!r}",
            )
            fresh = request.messages[len(shown) :]
            if before:
                next_ = fresh[0].request if fresh else None
                _need("views", next_ == before.id, f"{request.id!r} does not show the reply to {before.id!r} next")
                fresh, own = fresh[1:], fresh[0]
                told = own.role == "assistant" and own.content == said.text
                _need(
                    "views", told, f"{request.id!r} shows the reply to {before.id!r} as {own.role} {own.content[:60]!r}"
                )
            brought = game.facts.history and before is None
            foreign = [
                message
                for message in fresh
                if (message.role == "assistant" and not brought) or message.request is not None
            ]
            _need(
                "views",
                not foreign,
                f"{request.id!r} shows a reply that the seat did not give: {str(foreign[:1])[:120]}",
            )
            if request.kind != "probe":
                last[request.seat] = request, reply


def context(game: Game, matches: int = 20, seed: int = 0) -> None:
    """A reply with finish "context" ends the match with the outcome "context", and blames its seat."""
    for play, _ in _finished(game, matches, seed):
        asked = list(play.requests())
        place = derive(play.seed, "context") % len(asked)
        lost = asked[place]
        end = _play(game, play.scenario, play.seed, _outgrown(place, _recorded(play)))
        _need("context", not end.crash, f"the match raised: {end.crash}")
        over = len(list(end.requests())) - len(end.rounds[-1][0]) <= place
        _need(
            "context",
            over and end.result is not None,
            f"{play.scenario.id!r} goes on after the view of {lost.id!r} no longer fitted",
        )
        told = (end.result.outcome, end.result.blame) if end.result else ("", ())
        _need(
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
    _need("enumerable", not game.facts.held_out, "the splits differ: an enumerable game declares held_out=False")
    pool, choices = list(game.scenarios(SPLITS[0])), dict[object, list[str]]()
    for number in range(matches):
        name = derive(seed, "enumerable", number)
        scenario = pool[derive(name, "scenario") % len(pool)]
        play = _play(game, scenario, name, _listed(name))
        _need("enumerable", not play.script_crash, f"a request lists no legal replies: {play.script_crash}")
        again = _play(game, scenario, name + 1, _recorded(play))
        same = again.result == play.result and [*again.requests()] == [*play.requests()]
        _need("enumerable", same, f"{scenario.id!r}: another seed changes what the same replies lead to")
        _need(
            "enumerable",
            play.result is not None and not play.result.blame,
            f"{scenario.id!r}: a listed reply put a seat out",
        )
        for request in play.requests():
            legal = list((request.observation or {})["legal"])
            _need("enumerable", request.kind != "retry", f"{request.id!r} refuses a reply that was listed as legal")
            _need(
                "enumerable", request.kind != "probe", f"{request.id!r} is a probe, whose reply its seat would forget"
            )
            _need("enumerable", len(set(legal)) == len(legal), f"{request.id!r} lists a reply twice: {legal}")
            known = choices.setdefault((request.seat, request.messages), legal)
            _need(
                "enumerable", known == legal, f"{request.id!r} lists {legal}, and {known} where the seat saw the same"
            )


def _listed(seed: int) -> Answer:
    """Random replies from those that each request lists."""

    def answer(request: Request, turn: int) -> Reply:
        legal = (request.observation or {})["legal"]
        return Reply(request.id, legal[derive(seed, "reply", turn) % len(legal)])

    return answer


def secrets(game: Game, matches: int = 20, seed: int = 0) -> None:
    """No role sees private facts of another seat (see the module's docstring)."""
    pool = [each for split in SPLITS for each in game.scenarios(split) if len(seats(game, each)) > 1]
    if not pool:
        return
    declared = getattr(game, "secrets", None)
    if declared is not None:
        for play in _plays(game, matches, seed):
            _unspoken(game, play, declared(play.scenario))
        return
    compared = 0
    for number in range(matches):
        name = derive(seed, "match", number)
        play = _play(game, pool[derive(name, "scenario") % len(pool)], name, _answer(game, name, 0.15 * (number % 2)))
        for seat in seats(game, play.scenario):
            compared += _compare(game, play, seat, _partners(game, play, seat, pool, name))
    _need(
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
            _need(
                "secrets", not leaks, f"{request.id!r} of {play.scenario.id!r} shows {leaks[:1]}, which nobody has said"
            )
        spoken += "\n".join(reply.text for reply in replies).casefold()


def _bare(game: Game, scenario: Scenario, request: Request) -> str:
    """The request's texts, without the scenario's public ones."""
    shown = "\n".join([*(each.content for each in request.messages), _plain(request.observation)])
    for text in getattr(game, "public", lambda scenario: ())(scenario):
        shown = shown.replace(text, "")
    return shown


def _alike(game: Game, one: tuple[Scenario, Request], other: tuple[Scenario, Request]) -> bool:
    """Whether two requests show the same, apart from public texts of their scenarios."""
    if _same(one[1], other[1]) or not hasattr(game, "public"):
        return _same(one[1], other[1])
    return one[1].options == other[1].options and _bare(game, *one) == _bare(game, *other)


def _recorded(play: Play) -> Answer:
    """The replies of `play` in order, for a match with the same requests; empty afterwards."""
    replies = play.replies()

    def answer(request: Request, turn: int) -> Reply:
        return replace(replies[turn], id=request.id) if turn < len(replies) else Reply(request.id, "")

    return answer


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
            else list(_play(game, scenario, play.seed, _recorded(play), place + 1).requests())
        )
        if len(begun) > place and _same(begun[place], first):
            yield _play(game, scenario, play.seed, _recorded(play))
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
                    _need(
                        "secrets",
                        _alike(game, (play.scenario, here), (other.scenario, there)),
                        f"{here.id!r} differs between {pair}, though they begin alike and all replies are equal. If "
                        "that is no secret but public chance, such as a card that is turned up, give the game a method "
                        "public(scenario) -> [texts] that lists its wordings",
                    )
                    compared += 1
    return compared


CHECKS: Mapping[str, Callable[..., None]] = {
    "scenarios": scenarios,
    "seats": seats_,
    "junk": junk,
    "scripts": scripts,
    "ends": ends,
    "retries": retries,
    "requests": requests,
    "returns": returns,
    "marks": marks,
    "facts": facts,
    "replay": replay,
    "json": json_,
    "global_random": global_random,
    "views": views,
    "context": context,
    "enumerable": enumerable,
    "secrets": secrets,
}
