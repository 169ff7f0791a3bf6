import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from itertools import compress
from pathlib import Path

import pytest
from parley.data.episode import Episode, Turn
from parley.data.replay import replay
from parley.data.store import EpisodeStore, encode
from parley.games.base import Facts, GeneratorMatch, Request, Result, Scenario, View
from parley.play.arena import Arena, Failure, TooManyFailures, owed
from parley.play.pairing import Seating, both_seatings, branches, self_play
from parley.play.player import Completion
from parley.play.players import ScriptedPlayer
from tables import Bids, Late

GAME = Bids()


def plan(count=12, k=2, name="x"):
    return self_play(GAME, GAME.scenarios(count=count), name, 5, "play", k)


def missing(seatings, store):
    return list(compress(seatings, owed(seatings, store)))


def scripted(seed=0):
    return ScriptedPlayer(GAME.scripts()["random"], "random", seed)


def play(players, seatings, **options):
    episodes = []
    report = Arena(GAME, players, **options).play(seatings, episodes.append)
    return report, sorted(episodes, key=lambda episode: episode.id)


class Typed(Late):
    """Answers what the test typed: request id -> text."""

    def __init__(self, texts):
        super().__init__(0)
        self.texts = texts

    def answer(self, prompt):
        return Completion(prompt.id, self.texts[prompt.request], policy=f"p.{prompt.seat}")


def test_a_match_typed_by_hand():
    texts = {"ann.1": "7", "bob.1": "9", "ann.2": "I say bob", "ann.3": "2", "bob.2": "hm", "bob.3": "1"}
    scenario, seed = Scenario("s", {"rounds": 1}), 1  # Random(1).choice(("ann", "bob")) is ann
    _, (episode,) = play(
        {"x": Typed(texts), "y": Typed(texts)}, [Seating("play/s/0", scenario, seed, {"ann": "x", "bob": "y"})]
    )
    assert episode == Episode(
        id="play/s/0",
        game="bids",
        game_version=3,
        scenario=scenario,
        seed=1,
        players={"ann": "x", "bob": "y"},
        policies={"ann": "p.ann", "bob": "p.bob"},
        turns=(
            Turn("ann.1", "ann", "act", "7"),
            Turn("bob.1", "bob", "act", "9"),
            Turn("ann.2", "ann", "act", "I say bob"),
            Turn("ann.3", "ann", "retry", "2"),
        ),
        result=Result(
            {"ann": -1.0, "bob": 1.0}, "won", metrics={"lead": -1.0}, marks={"ann.2": {"retry": "no number"}}
        ),
    )


@pytest.mark.parametrize("in_flight", [1, 3, 1000])
def test_batching_and_order_change_nothing(in_flight):
    expected = play({"x": Late(0)}, plan(), in_flight=7)[1]
    assert len(expected) == 24
    for when in range(20):
        report, episodes = play({"x": Late(when)}, plan(), in_flight=in_flight)
        assert episodes == expected
        assert (report.matches, report.open, report.failures) == (24, 0, ())
        assert report.turns == sum(len(episode.turns) for episode in episodes)
        assert report.tokens == 2 * report.turns


def test_every_scripted_match_replays_from_its_record():
    seatings = both_seatings(GAME, GAME.scenarios(), "one", "two", 5, "eval", 3)
    _, episodes = play({"one": scripted(1), "two": scripted(2)}, seatings, in_flight=5)
    assert len(episodes) == 12 * 2 * 3
    assert {frozenset(episode.players.items()) for episode in episodes} == {
        frozenset({("ann", "one"), ("bob", "two")}),
        frozenset({("ann", "two"), ("bob", "one")}),
    }
    for episode in episodes:
        assert replay(GAME, episode).result == episode.result


# --- prefixes


@pytest.mark.parametrize("seed", range(4))
def test_a_reopened_match_goes_on_as_if_it_had_never_been_cut_off(seed):
    seatings = self_play(GAME, GAME.scenarios(), "x", seed, "iter_002/eval/sampled", 2)
    whole = play({"x": scripted()}, seatings)[1]
    for seating, episode in zip(sorted(seatings, key=lambda each: each.match), whole, strict=True):
        for cut in range(len(episode.turns) + 1):
            report, [again] = play({"x": scripted()}, [replace(seating, prefix=episode.turns[:cut])])
            assert again == episode and report.turns == len(episode.turns) - cut


def test_branches_differ_in_their_replies_and_in_nothing_that_the_parent_decided():
    parent = next(each for each in play({"x": Late(0)}, plan())[1] if each.scenario.data["rounds"] == 2)
    for cut in range(len(parent.turns)):
        seatings = branches(parent, cut, {"ann": "x", "bob": "x"}, 7, "branch", 4)
        _, found = play({"x": Late(1)}, seatings)
        assert found == play({"x": Late(2)}, list(seatings), in_flight=2)[1]
        assert len({str(episode.turns) for episode in found}) == len({episode.id for episode in found}) == 4
        for episode in found:
            assert (episode.parent, episode.seed) == ((parent.id, cut), parent.seed)
            assert episode.turns[:cut] == parent.turns[:cut] and episode.own == episode.turns[cut:]
            assert replay(GAME, episode).result == episode.result
    with pytest.raises(ValueError, match=f"has {len(parent.turns)} turns: it cannot branch after 99"):
        branches(parent, 99, {}, 7, "branch")


def test_scripts_stay_the_same_persons_in_branches_and_in_every_iteration():
    def persons(seatings):
        return {turn.text.split()[-1] for each in play({"x": scripted()}, seatings)[1] for turn in each.own}

    scenario = [Scenario("s", {"rounds": 2})]
    first, later = (self_play(GAME, scenario, "x", 5, f"iter_00{number}/eval/sampled") for number in (0, 3))
    [parent], [other] = (play({"x": scripted()}, seatings)[1] for seatings in (first, later))
    assert (parent.turns, parent.seed) == (other.turns, other.seed) and parent.id != other.id
    assert persons(branches(other, 2, {"ann": "x", "bob": "x"}, 7, "b", 5)) <= persons(first)
    assert not persons(first) & persons(self_play(GAME, scenario, "x", 5, "iter_001/play"))


def test_a_prefix_of_another_match_is_refused():
    first = Turn("ann.1", "ann", "act", "7")
    scenario = Scenario("s", {"rounds": 1})
    for prefix, says in (
        ([replace(first, seat="bob")], r"asks ann\.1 as \('ann', 'act'\); its prefix has \('bob', 'act'\)"),
        ([first, replace(first, request="ann.9")], r"never comes to these turns of its prefix: \['ann\.9'\]"),
        ([replace(first, request="ann.2")], r"never comes to these turns of its prefix: \['ann\.2'\]"),
    ):
        seating = Seating("m", scenario, 1, {"ann": "x", "bob": "x"}, tuple(prefix))
        with pytest.raises(ValueError, match=says):
            play({"x": scripted()}, [seating])


def test_a_journal_has_every_turn_and_opens_what_was_cut_off():
    """Cut off after any number of answers, in the middle of simultaneous ones, too; each answer is given once."""
    whole = play({"x": Late(0)}, plan())[1]
    for cut in range(0, 60, 7):
        fallen: dict[str, list[Turn]] = {}
        answers = 0

        def journal(match, turn, fallen=fallen, cut=cut):
            nonlocal answers
            fallen.setdefault(match, []).append(turn)
            answers += 1
            if answers == cut:
                raise KeyboardInterrupt

        stored: list[Episode] = []
        with suppress(KeyboardInterrupt):
            Arena(GAME, {"x": Late(1)}, in_flight=5).play(plan(), stored.append, journal=journal)
        left = [
            replace(seating, prefix=tuple(fallen.get(seating.match, ())))
            for seating in plan()
            if seating.match not in {episode.id for episode in stored}
        ]
        Arena(GAME, {"x": Late(2)}, in_flight=5).play(left, stored.append, journal=journal)
        assert [replace(each, policies={}) for each in sorted(stored, key=lambda each: each.id)] == [
            replace(each, policies={}) for each in whole
        ]
        assert answers == sum(len(episode.turns) for episode in whole)


def test_an_arena_waits_for_who_is_not_there_yet():
    seatings, asked = list(plan()), []

    def arriving():
        for number, seating in enumerate(seatings):
            asked.append(number)
            yield from [None] * (number % 3)
            yield seating
        yield None

    report, episodes = play({"x": Late(0)}, arriving(), in_flight=2)
    assert report.matches == 24 and episodes == play({"x": Late(0)}, plan())[1] and asked == list(range(24))
    assert play({"x": Late(0)}, [None, None])[0].matches == 0


class Slow(Late):
    """Holds the answers for one match back until `released`."""

    def __init__(self, match):
        super().__init__(0)
        self.match, self.released = match, False

    def poll(self, wait_s=0.0):
        ready = [prompt for prompt in self.open if self.released or not prompt.startswith(self.match)]
        self.released = not ready
        return [self.answer(self.open.pop(prompt)) for prompt in ready]


def test_nobody_waits_for_the_slowest():
    ended = []
    Arena(GAME, {"x": Slow("play/train-0/0")}, in_flight=4).play(plan(), lambda episode: ended.append(episode.id))
    assert len(ended) == 24
    assert ended[-1] == "play/train-0/0"


def test_waits_only_when_nobody_has_local_work():
    local, remote = scripted(), Late(3)
    play(
        {"local": local, "remote": remote},
        both_seatings(GAME, GAME.scenarios(), "local", "remote", 1, "e"),
        in_flight=24,
    )
    assert max(remote.waits) > 0
    busy = Late(3)
    busy.busy = True
    play({"x": busy}, plan())
    assert max(busy.waits) == 0


def test_simultaneous_requests_are_asked_at_once():
    class Counting(Late):
        most = 0

        def submit(self, prompts):
            super().submit(prompts)
            self.most = max(self.most, len(prompts))

    player = Counting(0)
    play({"x": player}, plan(), in_flight=1)
    assert player.most == 2


def test_a_lost_player_is_a_failure_and_the_match_stays_owed(tmp_path):
    seatings = list(plan())
    bad = {"play/train-1/0/bob.1", "play/train-6/1/ann.1"}
    player = Late(4, lambda prompt: prompt.id in bad)
    with EpisodeStore(tmp_path) as store:
        report = Arena(GAME, {"x": player}, in_flight=6).play(seatings, store.append)
        assert set(report.failures) == {
            Failure("play/train-1/0", "bob", "x", "bob.1", "connection reset"),
            Failure("play/train-6/1", "ann", "x", "ann.1", "connection reset"),
        }
        assert report.matches == 22
        assert [seating.match for seating in missing(seatings, store)] == ["play/train-1/0", "play/train-6/1"]
        assert all(prompt.rpartition("/")[0] in ("play/train-1/0", "play/train-6/1") for prompt in player.cancelled)
        Arena(GAME, {"x": Late(9)}).play(missing(seatings, store), store.append)
        assert list(store.read(ordered=True)) == play({"x": Late(0)}, seatings)[1]


def test_what_a_failed_match_asked_elsewhere_is_cancelled():
    first, second = Late(0, lambda prompt: True), Late(0)
    second.poll = lambda wait_s=0.0: []  # type: ignore[method-assign]
    scenario = Scenario("s", {"rounds": 2})
    with pytest.raises(TooManyFailures, match=r"1 of 1 matches.*x: connection reset"):
        play({"x": first, "y": second}, [Seating("play/s/0", scenario, 1, {"ann": "x", "bob": "y"})])
    assert second.cancelled == ["play/s/0/bob.1"]
    assert not second.open


def test_a_second_error_or_a_late_answer_of_a_failed_match_is_ignored():
    class Both(Late):  # both answers of a round arrive in one poll, the first of them an error
        def poll(self, wait_s=0.0):
            prompts, self.open = list(self.open.values()), {}
            return [self.answer(prompt) for prompt in prompts]

    report, episodes = play({"x": Both(0, lambda prompt: prompt.id.startswith("play/train-1/0/"))}, plan())
    assert [failure.request for failure in report.failures] == ["ann.1"]
    assert len(episodes) == 23


@pytest.mark.parametrize(("rate", "minimum", "stops"), [(0.1, 10, True), (0.6, 10, False), (0.1, 200, False)])
def test_too_many_failures_stop_the_run(rate, minimum, stops):
    def broken(prompt):
        return int(prompt.id.split("/")[2]) % 2 == 0  # every other match of each scenario

    player = Late(1, broken)
    seatings, options = plan(k=10), {"max_failures": rate, "min_failures": minimum, "in_flight": 8}
    if not stops:
        report, episodes = play({"x": player}, seatings, **options)
        assert (len(report.failures), len(episodes)) == (60, 60)
        return
    with pytest.raises(TooManyFailures, match="lost a player") as caught:
        play({"x": player}, seatings, **options)
    assert 10 <= len(caught.value.report.failures) < 20
    assert not player.open  # nothing is left to be worked on


def test_lost_matches_end_first_and_that_alone_stops_nothing():
    player = Late(1, lambda prompt: prompt.id.startswith("play/train-1/"))
    report, _ = play({"x": player}, plan(), in_flight=24, max_failures=0.1, min_failures=1)
    assert (len(report.failures), report.matches) == (2, 22)


class Answers(Late):
    def __init__(self, *ids):
        super().__init__(0)
        self.ids = ids

    def poll(self, wait_s=0.0):
        return [Completion(prompt, "1") for prompt in self.ids]


@pytest.mark.parametrize(
    "ids", [("play/train-1/0/nobody.1",), ("other/ann.1",), ("play/train-1/0/ann.1", "play/train-1/0/ann.1")]
)
def test_an_answer_that_nobody_asked_for_is_an_error(ids):
    with pytest.raises(RuntimeError, match="not an open question"):
        play({"x": Answers(*ids)}, plan())


def test_an_answer_from_the_wrong_player_is_an_error():
    seating = Seating("m", Scenario("s", {"rounds": 1}), 1, {"ann": "x", "bob": "y"})
    with pytest.raises(RuntimeError, match=r"player x answered m/bob\.1"):
        play({"x": Answers("m/bob.1"), "y": Late(0)}, [seating])


def test_streams_are_forgotten_once_when_their_match_is_over():
    player = Late(2, lambda prompt: prompt.id == "play/train-2/0/ann.2")
    play({"x": player}, plan())
    expected = [f"{seating.match}/{seat}" for seating in plan() for seat in GAME.roles]
    assert sorted(player.forgotten) == sorted(expected)


def test_a_stop_from_outside_leaves_nothing_open():
    player, seen = Late(2), []

    def sink(episode):
        seen.append(episode)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Arena(GAME, {"x": player}, in_flight=9).play(plan(), sink)
    assert not player.open
    assert play({"x": player}, plan())[0].matches == 24


def test_progress_is_told_as_matches_end():
    reports = []
    final = Arena(GAME, {"x": Late(1)}, in_flight=2).play(plan(), lambda _: None, reports.append)
    assert [report.matches for report in reports] == sorted(report.matches for report in reports)
    assert (reports[-1].matches, reports[-1].turns) == (final.matches, final.turns) == (24, final.turns)
    assert max(report.open for report in reports) == 2


class Broken:
    name, version, roles, facts = "broken", 1, ("a",), Facts(0, 1, 2, 0)

    def __init__(self, ask):
        self.ask = ask

    def scenarios(self, split="train"):
        return [Scenario("s", {})]

    def scripts(self):
        return {}

    def match(self, scenario, seed):
        return GeneratorMatch(self.ask())


def test_a_match_without_a_question_is_an_episode_without_turns():
    def silent():
        return Result({"a": 1.0}, "forced")
        yield

    episodes = []
    game = Broken(silent)
    assert (
        Arena(game, {"x": Late(0)}, in_flight=1)
        .play(self_play(game, game.scenarios(), "x", 1, "p", 50), episodes.append)
        .matches
        == 50
    )
    assert {episode.turns for episode in episodes} == {()}


def test_errors_name_the_match():
    def crash():
        yield View("a").ask()
        raise ZeroDivisionError

    def slash():
        yield Request("a/1", "a", ())

    def twice():
        yield [Request("a.1", "a", ()), Request("a.1", "a", ())]

    def run(ask):
        game = Broken(ask)
        Arena(game, {"x": Late(0)}).play(self_play(game, game.scenarios(), "x", 1, "p"), lambda _: None)

    with pytest.raises(ZeroDivisionError) as caught:
        run(crash)
    assert "in match p/s/0 of broken" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="'a/1'"):
        run(slash)
    with pytest.raises(ValueError, match="unique"):
        run(twice)


def test_a_plan_that_cannot_be_seated_is_refused():
    scenario = Scenario("s", {"rounds": 1})
    with pytest.raises(ValueError, match="bids has"):
        play({"x": Late(0)}, [Seating("m", scenario, 1, {"ann": "x"})])
    with pytest.raises(KeyError, match="needs the players"):
        play({"x": Late(0)}, [Seating("m", scenario, 1, {"ann": "x", "bob": "ghost"})])
    with pytest.raises(ValueError, match="planned twice"):
        play({"x": Late(0)}, [Seating("m", scenario, 1, {"ann": "x", "bob": "x"})] * 2)
    with pytest.raises(ValueError, match="in_flight"):
        Arena(GAME, {}, in_flight=0)


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from test_arena import GAME, missing, plan, scripted
from parley.data.store import EpisodeStore, encode
from parley.play.arena import Arena
store, count = EpisodeStore(sys.argv[1]), 0
def sink(episode):
    global count
    count += 1
    if count == int(sys.argv[3]):
        os.write(store._file.fileno(), encode(episode)[:-count])  # killed inside a write
        os._exit(9)
    store.append(episode)
Arena(GAME, {"x": scripted()}, in_flight=3).play(missing(plan(), store), sink)
"""


def test_killed_inside_a_write_again_and_again_nothing_is_lost_or_doubled(tmp_path):
    here, stored = str(Path(__file__).parent), 0
    for number in (3, 9):
        assert (
            subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), here, str(number)], check=False).returncode
            == 9
        )
        stored += number - 1
        assert len(EpisodeStore(tmp_path, None).ids()) == stored
    with EpisodeStore(tmp_path) as store:
        assert store.torn == 1
        report = Arena(GAME, {"x": scripted()}).play(missing(plan(), store), store.append)
        assert report.matches == 24 - stored
        assert list(store.read(ordered=True)) == play({"x": scripted()}, plan())[1]
        assert store.duplicates == 0
    lines = sorted((tmp_path / "0.jsonl").read_bytes().splitlines(keepends=True))
    assert lines == sorted(encode(episode) for episode in play({"x": scripted()}, plan())[1])


class Chat:
    """Two seats take turns, eight each match: nothing but the arena's own work."""

    name, version, roles, facts = "chat", 1, ("a", "b"), Facts(0, 1, 8, 0)

    def scenarios(self, split="train"):
        return [Scenario(f"s{n:04d}", {"n": n}) for n in range(1000)]

    def scripts(self):
        return {"says": lambda request, own, persona: f"{own.random():.3f} {persona.random():.3f}"}

    def match(self, scenario, seed):
        return GeneratorMatch(self._turns())

    def _turns(self):
        views = [View(role, f"You are {role}.") for role in self.roles]
        for turn in range(8):
            view, other = views[turn % 2], views[1 - turn % 2]
            view.tell(f"Turn {turn}.")
            reply = yield view.ask(observation={"turn": turn})
            view.hear(reply)
            other.tell(reply.text)
        return Result({"a": 1.0, "b": 0.0}, "end", metrics={"turns": 8.0})


def test_ten_thousand_scripted_turns_per_cpu_second_with_episodes_written(tmp_path):
    game, rates = Chat(), []
    for shard in range(3):  # the best of three: the other processes of this machine are not under test
        with EpisodeStore(tmp_path, shard) as store:
            arena = Arena(game, {"says": ScriptedPlayer(game.scripts()["says"], "says")})
            start = time.process_time()
            report = arena.play(self_play(game, game.scenarios(), "says", shard, f"p{shard}"), store.append)
            rates.append(report.turns / (time.process_time() - start))
    assert max(rates) > 10_000, f"{max(rates):.0f} turns per CPU-second"


def test_every_request_has_a_seed_of_its_own_and_the_same_one_each_time():
    class Seeds(ScriptedPlayer):
        def __init__(self):
            super().__init__(GAME.scripts()["random"], "random", 0)
            self.seen = {}

        def submit(self, prompts):
            self.seen |= {prompt.id: prompt.seed for prompt in prompts}
            super().submit(prompts)

    first, second = Seeds(), Seeds()
    for player in (first, second):
        play({"x": player}, plan())
    assert first.seen == second.seen and len(first.seen) > 40
    assert len(set(first.seen.values())) == len(first.seen)
