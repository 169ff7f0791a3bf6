"""Stored matches of other runs as data: who is learned from, what credit keeps, and what is never taken."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf
from parley.cli.tasks import exporting, training
from parley.credit import FilteredBC
from parley.data.episode import Episode
from parley.data.replay import ReplayError, replay
from parley.data.scorer import RuleScorer, write_scores
from parley.data.sources.matches import StoredMatches, meets
from parley.data.store import EpisodeStore, Matches
from parley.run.build import build
from parley.run.config import ConfigError
from parley.run.lessons import chats
from parley.run.match import play_match
from parley.run.stages import stage
from parley.system.files import InputError

from parlour import Debate

SMALL = ["model.width=32", "model.layers=1", "model.mlp=64"]
TINY = [
    "imitate.matches=0", "imitate.validation=0", "learner.epochs=1",
    "learner.batch_utterances=8", "imitate.learner.batch_utterances=8", "eval.opponents=[]",
]  # fmt: skip
PLAY = "iter_001/play"
GAME = Debate()


def config(*words: str) -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", [*TINY, *words])


def played(game: Any, scenario: Any, seed: int, script: str, **known: Any) -> Episode:
    """A match of scripts, as if models of these names had played it."""
    episode = play_match(game, dict.fromkeys(game.roles, script), scenario, seed)
    names = known.pop("names", dict.fromkeys(game.roles, "learner"))
    policies = {seat: f"{names[seat]}-v1" if seat in names else "" for seat in episode.players}
    return replace(episode, players={**episode.players, **names}, policies=policies, **known)


def debates(split: str = "train", count: int = 8, **known: Any) -> list[Episode]:
    scenarios = GAME.scenarios(split)[:count]
    return [
        played(GAME, scenario, seed, "player", id=f"{PLAY}/{scenario.id}/0", **known)
        for seed, scenario in enumerate(scenarios)
    ]


def stored(run: Path, episodes: list[Episode], name: str = PLAY, scored: bool = False) -> Path:
    """A run that has nothing but one sealed stage of play, and its scores: no config is needed, for none is read."""

    def write() -> None:
        with EpisodeStore(run / name, 0) as store:
            for each in episodes:
                store.append(each)

    stage(run / name, {}, write)
    if scored:
        scores = run / name / "score/scores.jsonl"
        stage(scores.parent, {}, lambda: write_scores(scores, RuleScorer(), Matches(run / name)))
    return run


def kept(matches: Any, credit: FilteredBC) -> set[tuple[str, str]]:
    return {(each.match, each.seat) for each in credit(matches, "me").table if each.kept}


# --- who is learned from ---------------------------------------------------------------------------------------------


def test_credit_chooses_among_stored_matches_as_among_its_own(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", episodes := debates())
    gathered = StoredMatches([str(run)]).recorded(GAME, "me")
    assert len(gathered) == len(episodes) and [each.id for each in gathered] == sorted(each.id for each in gathered)
    for credit in (FilteredBC("all"), FilteredBC("above_avg"), FilteredBC("best", group="cluster"), FilteredBC("top")):
        own = {(each.match, each.seat) for each in credit(Matches(run / PLAY), "learner").table if each.kept}
        assert kept(gathered, credit) == {(f"matches/000/{match}", seat) for match, seat in own} != set()


def test_a_kept_reply_is_imitated_behind_the_view_that_its_seat_had(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", episodes := debates(count=1))
    gathered = StoredMatches([str(run)]).recorded(GAME, "me")
    demos = chats(GAME, gathered, FilteredBC("all")(gathered, "me").table)
    views = replay(GAME, episodes[0]).views
    assert {demo.id.rpartition("/")[2]: demo.messages for demo in demos} == {seat: views[seat] for seat in GAME.roles}
    for demo in demos:
        weighed = zip(demo.messages, demo.weights, strict=True)
        assert all(weight == (message.role == "assistant") for message, weight in weighed)


def test_two_runs_may_have_the_same_ids_and_others_are_not_learned_from(tmp_path: Path) -> None:
    runs = [
        stored(tmp_path / "a", debates(names={"pro": "expert", "con": "learner"})),
        stored(tmp_path / "b", debates()),
    ]
    both = StoredMatches(tuple(map(str, runs)))
    assert len(kept(both.recorded(GAME, "me"), FilteredBC("all"))) == 32
    expert = replace(both, players=("expert",)).recorded(GAME, "me")
    assert {(match.split("/")[1], seat) for match, seat in kept(expert, FilteredBC("all"))} == {("000", "pro")}
    assert all(expert[each.id] == each and each.id in expert for each in expert) and "matches/002/x" not in expert
    mine = replace(both, players=("expert",)).recorded(
        GAME, "learner"
    )  # a name that sat there, and is not learned from
    assert {each.seat for each in FilteredBC("all")(mine, "learner").table} == {"pro"}


def test_scripts_are_learned_from_only_where_they_are_named(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", debates(names={"pro": "learner"}))
    every = StoredMatches([str(run)])
    assert {seat for _, seat in kept(every.recorded(GAME, "me"), FilteredBC("all"))} == {"pro"}
    named = replace(every, players=("player",))
    assert {seat for _, seat in kept(named.recorded(GAME, "me"), FilteredBC("all"))} == {"con"}


def test_scores_of_the_run_or_of_a_later_judge_count(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", debates(), scored=True)
    data, credit = StoredMatches([str(run)]), FilteredBC("at_least", score="return", least=1.0)
    table = credit(data.recorded(GAME, "me"), "me").table
    assert {each.score for each in table} <= {-1.0, 0.0, 1.0} and any(each.kept for each in table)
    judged = tmp_path / "judged" / PLAY / "score"
    says = {"return": dict.fromkeys(GAME.roles, 5.0)}
    stage(judged, {}, lambda: write_scores(judged / "scores.jsonl", lambda episode: says, Matches(run / PLAY)))
    later = replace(data, scores=(str(tmp_path / "judged"),)).recorded(GAME, "me")
    assert {each.score for each in credit(later, "me").table} == {5.0}


# --- what is never taken ---------------------------------------------------------------------------------------------

AGREED, NOT = {"training": True, "version": 2}, {"training": False, "version": 2}


@pytest.mark.parametrize(("consent", "taken"), [
    (None, False), ({}, False), ({"pro": AGREED}, True), ({"pro": NOT}, False), ({"pro": {"training": "yes"}}, False),
    ({"pro": AGREED, "con": NOT}, False), ({"con": AGREED}, False), ({"pro": AGREED, "con": AGREED}, True),
    ("yes", False),
])  # fmt: skip
def test_a_persons_match_counts_only_where_its_record_allows_training(
    tmp_path: Path, consent: Any, taken: bool
) -> None:
    extra: Mapping[str, Any] = {} if consent is None else {"consent": consent}
    people = debates(count=2, names={"pro": "human", "con": "learner"}, extra=extra)
    models = [replace(each, id=f"{each.id}9") for each in debates(count=1)]
    data = StoredMatches([str(stored(tmp_path / "run", [*people, *models]))])
    with warnings.catch_warnings():
        warnings.simplefilter("error" if taken else "ignore")
        gathered = data.recorded(GAME, "me")
    assert len(gathered) == (3 if taken else 1)
    assert len(list(data.demonstrations(GAME, "train"))) == (6 if taken else 2)
    if not taken:
        with pytest.warns(UserWarning, match="2 of 3 matches are left out \\(2 without consent to training\\)"):
            data.recorded(GAME, "me")


def test_where_filters_by_what_the_record_says(tmp_path: Path) -> None:
    asked = [replace(each, extra={"study": {"version": at % 2}}) for at, each in enumerate(debates())]
    data = StoredMatches([str(stored(tmp_path / "run", asked))], where={"study": {"version": 1}})
    with pytest.warns(UserWarning, match="4 of 8 matches are left out"):
        assert {each.extra["study"]["version"] for each in data.recorded(GAME, "me")} == {1}  # type: ignore[index,call-overload]
    outcome = asked[0].result.outcome
    ended = replace(data, where={"outcome": [outcome, "never"], "study": {"version": [0, 1]}})
    assert all(each.result.outcome == outcome for each in ended.recorded(GAME, "me"))
    with pytest.raises(InputError, match=r"no match of data\.runs is left to learn from: 8 not as data\.where says"):
        replace(data, where={"study": "other"}).recorded(GAME, "me")
    with pytest.raises(InputError, match=r"no match of data\.runs is left to learn from: 8 with nobody to learn from"):
        replace(data, where=None, players=("nobody",)).recorded(GAME, "me")
    assert meets({"a": {"b": 1}}, {"a": {}}) and not meets({"a": 1}, {"a": {"b": None}}) and meets({}, {"a": None})


def test_matches_on_held_out_scenarios_are_refused(tmp_path: Path) -> None:
    run = stored(stored(tmp_path / "run", debates()), debates("test", 3), "iter_001/eval/sampled")
    data = StoredMatches([str(run)], stages=(PLAY, "iter_001/eval/sampled"))
    with pytest.raises(InputError, match=r"3 matches in data\.runs are on scenarios that debate holds out"):
        data.recorded(GAME, "me")
    with pytest.warns(UserWarning, match="3 of 11 matches are left out \\(3 held out\\)"):
        assert len(replace(data, held_out="leave_out").recorded(GAME, "me")) == 8
    assert not [*StoredMatches([str(run)]).demonstrations(GAME, "validation")]


def test_what_was_changed_since_it_was_sealed_is_refused(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", debates(), scored=True)
    data, scores, shard = StoredMatches([str(run)]), run / PLAY / "score/scores.jsonl", run / PLAY / "0.jsonl"
    sound = scores.read_text()
    scores.write_text(sound.replace("-1.0", "9.0", 1))
    with pytest.raises(InputError, match=r"scores\.jsonl was changed"):
        FilteredBC("best", score="return")(data.recorded(GAME, "me"), "me")
    scores.write_text(sound)
    shard.write_text(shard.read_text().replace("tea", "sea", 1))
    with pytest.raises(InputError, match=r"0\.jsonl was changed"):
        data.recorded(GAME, "me")


def test_another_games_matches_are_refused(tmp_path: Path) -> None:
    class Other(Debate):
        name = "other"

    data = StoredMatches([str(stored(tmp_path / "run", debates()))])
    with pytest.raises(ReplayError, match="played by debate version 1; this game is other"):
        [*data.demonstrations(Other(), "train")]


@pytest.mark.parametrize(("option", "told"), [
    ({"runs": []}, "data.runs is empty"),
    ({"runs": ["nowhere"]}, "nowhere has no finished round"),
    ({"stages": ["iter_009/play"]}, "iter_009/play is no finished stage"),
    ({"scores": ["a", "b"]}, "2 folders for 1 runs"),
    ({"scores": ["nowhere"]}, "there is no nowhere/iter_001/play/score/scores.jsonl"),
    ({"held_out": "take"}, "expected refuse or leave_out"),
])  # fmt: skip
def test_a_wrong_option_is_told_before_anything_is_built(tmp_path: Path, option: Any, told: str) -> None:
    run = stored(tmp_path / "run", debates(count=1))
    with pytest.raises(InputError, match=told):
        StoredMatches(**{"runs": [str(run)], **option})


# --- whole commands --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of experts on Deal or No Deal; the last match is a bad one."""
    game = instantiate(config().game)
    scenarios = game.scenarios("train")[:6]
    found = [played(game, each, 0, "fair", id=f"{PLAY}/{each.id}/0") for each in scenarios]
    found += [played(game, each, 1, "naive", id=f"{PLAY}/{each.id}/1") for each in scenarios]
    return stored(tmp_path_factory.mktemp("stored") / "run", found)


def done(out: Path, name: str) -> Any:
    return json.loads((out / name / "stage.json").read_text())["outputs"]


def test_cloning_then_self_reinforcement_from_stored_matches(tmp_path: Path, deals: Path) -> None:
    words = ["task=offline", "data=matches", f"data.runs=[{deals}]", "objective.credit.keep=best"]
    training.offline(config(*words, *SMALL), tmp_path / "clone")
    learned = done(tmp_path / "clone", "iter_001/learn")["learner"]
    best = FilteredBC("best")(Matches(deals / PLAY), "learner").table
    replies = sum(len(each.replies) for each in best if each.kept)
    assert learned["credit"] == {"logs": 24, "kept": 12} and learned["learn"]["utterances"] == replies
    clone = tmp_path / "clone/iter_001/learn/learner/snapshot"
    again = [*words[:2], f"data.runs=[{deals},{deals}]", "model=hf", f"model.path={clone}"]
    training.offline(config(*again, "objective.credit.keep=top"), tmp_path / "reinforced")
    assert done(tmp_path / "reinforced", "iter_001/learn")["learner"]["credit"]["logs"] == 48


def test_imitation_takes_every_legal_reply(tmp_path: Path, deals: Path) -> None:
    training.imitate(config(*SMALL, "task=imitate", "data=matches", f"data.runs=[{deals}]"), tmp_path / "out")
    legal = [
        turn for each in Matches(deals / PLAY) for turn in each.turns if turn.request not in each.refused(turn.seat)
    ]
    assert done(tmp_path / "out", "iter_000/start")["learn"]["utterances"] == len(legal)


@pytest.mark.parametrize("objective", ["grpo", "dpo", "spag"])
def test_a_credit_that_keeps_bad_replies_is_refused(tmp_path: Path, deals: Path, objective: str) -> None:
    with pytest.raises(ConfigError, match="say objective=filtered_bc"):
        build(config("task=offline", "data=matches", f"data.runs=[{deals}]", f"objective={objective}"), tmp_path)


@pytest.mark.parametrize("objective", ["grpo", "dpo"])
@pytest.mark.parametrize("keep", ["credit", "all"])
def test_A16_an_export_leaves_out_what_credit_trains_away_from(
    tmp_path: Path, deals: Path, objective: str, keep: Any
) -> None:
    """By hand: of two matches of a scenario the legal replies of the better log of each seat."""
    found = list(Matches(deals / PLAY))
    groups = defaultdict(list)
    for each in found:
        for seat, payoff in each.result.returns.items():
            groups[each.scenario.id, seat].append((payoff, each, seat))
    logs = [
        log for group in groups.values() for log in group
        if keep == "all" or log[0] > min(payoff for payoff, _, _ in group)
    ]  # fmt: skip
    texts = [
        turn.text for _, each, seat in logs for turn in each.turns
        if turn.seat == seat and turn.text.strip() and turn.request not in each.refused(seat)
    ]  # fmt: skip
    run = stored(tmp_path / "run", found)
    made = config(f"objective={objective}")
    (run / "config.yaml").write_text(OmegaConf.to_yaml(made))
    exporting.export(made, tmp_path / "out", str(run), keep, ["completions"])
    lines = [json.loads(line) for line in (tmp_path / "out/completions.jsonl").read_text().splitlines()]
    assert sorted(line["completion"][0]["content"] for line in lines) == sorted(texts) and len(texts) > 10


def test_A13_empty_replies_of_stored_matches_are_not_imitated(tmp_path: Path) -> None:
    (first,) = debates(count=1)
    for text in (" ", ""):
        turns = (replace(first.turns[0], text=text), *first.turns[1:])
        run = stored(tmp_path / f"run{len(text)}", [replace(first, turns=turns)])
        source = StoredMatches([str(run)])
        imitated = [
            message.content for demo in source.demonstrations(GAME, "train")
            for message, weight in zip(demo.messages, demo.weights, strict=True) if weight
        ]  # fmt: skip
        chosen = FilteredBC("all")(source.recorded(GAME, "learner"), "learner").table
        own = [turn for turn in turns if turn.seat in GAME.roles and turn.kind != "probe"]
        said = sorted(turn.text for turn in own if turn.text.strip())
        assert len(own) > len(said) == 3 and sorted(imitated) == said
        assert sum(len(each.good) for each in chosen) == len(said)
