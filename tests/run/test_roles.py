"""Games with every kind of seat through whole runs: imitation, self-play, evaluation, tournament, report, export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from parley.credit import logs
from parley.data.episode import Episode
from parley.data.replay import replay
from parley.data.store import Matches
from parley.games.base import Game, seats, services
from parley.games.suite import Suite
from parley.learners.likelihood import logprobs
from parley.run.build import build
from parley.run.config import ConfigError
from parley.run.contents import all_snapshots
from parley.run.demonstrations import demonstrate
from parley.system.files import read_jsonl

from commands import output
from parlour import Auction, Debate, Library

TESTS = Path(__file__).parents[1]
GAMES: dict[str, tuple[str, Game, str]] = {  # name -> (its node, the game, the metric)
    "partial": ("{_target_: parlour.Debate}", Debate(), "won"),
    "tool": ("{_target_: parlour.Library}", Library(), "right"),
    "judge": ("{_target_: parlour.Debate}", Debate(), "won"),
    "three": ("{_target_: parlour.Auction, tables: [3]}", Auction([3]), "won"),
    "several": ("{_target_: parlour.Auction}", Auction(), "won"),
    "suite": (
        "{_target_: parley.games.suite.Suite, members: {debate: {_target_: parlour.Debate}, "
        "library: {_target_: parlour.Library, held_out: true}}}",
        Suite({"debate": Debate(), "library": Library(held_out=True)}),
        "library.right",
    ),
}
SERVING = {"partial": {"judge": "partial"}}  # who sits there instead of the game's own
EXPERIMENT = """# @package _global_
defaults:
  - override /game: null

name: {name}
metric: sampled.{metric}
iterations: 1
game: {node}
model: {{width: 32, heads: 2, layers: 1, mlp: 64, context: 96}}
objective: {{credit: {{keep: all}}}}
play: {{scenarios: 8, group: 1, sampling: {{max_tokens: 4}}}}
eval:
  {{scenarios: 8, validation: 6, greedy: 6, opponents: [player, previous], transcripts: 2, sampling: {{max_tokens: 4}}}}
players: {{{players}}}
imitate: {{matches: 40, validation: 4, players: [player]}}
"""


def parley(folder: Path, *words: str) -> str:
    return output(*words, "hydra.searchpath=[file://conf]", folder=folder, PYTHONPATH=str(TESTS))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each game, then a tournament and an export of each; all in three processes."""
    folder = tmp_path_factory.mktemp("roles")
    (folder / "conf/experiment").mkdir(parents=True)
    for name, (node, _, metric) in GAMES.items():
        players = ", ".join(f"{seat}: {player}" for seat, player in SERVING.get(name, {}).items())
        text = EXPERIMENT.format(name=name, node=node, metric=metric, players=players)
        (folder / f"conf/experiment/{name}.yaml").write_text(text)
    parley(folder, "-m", f"experiment={','.join(GAMES)}", "hydra.sweep.dir=runs", "hydra.sweep.subdir=${name}")
    for task in ("tournament", "export"):
        words = [f"experiment={','.join(GAMES)}", f"task={task}", "run=runs/${name}", f"hydra.sweep.dir={task}"]
        parley(folder, "-m", *words, "hydra.sweep.subdir=${name}")
    return folder


def stages(run: Path) -> dict[str, list[Episode]]:
    """The matches of every stage that played some."""
    folders = sorted({path.parent for path in run.rglob("*.jsonl") if path.stem.isdigit()})
    return {folder.relative_to(run).as_posix(): list(Matches(folder)) for folder in folders}


def figures(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from figures(each)


@pytest.mark.parametrize("name", GAMES)
def test_whoever_serves_sits_in_every_stage_and_learns_in_none(sweep: Path, name: str) -> None:
    _, game, _ = GAMES[name]
    played = stages(sweep / "runs" / name) | stages(sweep / "tournament" / name)
    assert {"iter_000/demonstrations/train", "iter_001/play", "iter_001/eval/sampled"} <= played.keys()
    for stage, episodes in played.items():
        for episode in episodes:
            roles = seats(game, episode.scenario)
            serving = {service: service for service in services(game)} | SERVING.get(name, {})
            assert episode.players == {role: episode.players[role] for role in roles} | serving
            assert set(episode.result.returns) == set(roles), stage
            assert replay(game, episode).result == episode.result
            assert all(turn.call is None for turn in episode.turns if turn.seat not in roles)
    imitated = [demo for each in played["iter_000/demonstrations/train"] for demo in demonstrate(game, each, 0.5)]
    assert {demo.id.rpartition("/")[2] for demo in imitated} <= set(game.roles)
    exported = list(read_jsonl(sweep / "export" / name / "messages.jsonl"))
    assert {line["meta"]["role"] for line in exported} <= set(game.roles)


@pytest.mark.parametrize("name", GAMES)
def test_who_meets_whom(sweep: Path, name: str) -> None:
    _, game, _ = GAMES[name]
    run = sweep / "runs" / name
    met = [each for each in game.scenarios("test")[:8] if len(seats(game, each)) > 1]
    played = stages(run)
    for opponent in ("start", "previous"):
        found = played.get(f"iter_001/eval/versus/{opponent}", [])
        assert len(found) == sum(len(seats(game, each)) for each in met)  # the learner in each role in turn
        assert all([*each.players.values()].count("learner") == 1 for each in found)
    alone = played.get("iter_000/eval/alone/player", [])
    assert len(alone) == sum(len(seats(game, each)) == 1 for each in game.scenarios("test")[:8])
    table = json.loads((sweep / "tournament" / name / "tournament.json").read_text())
    assert ("alone" in table["player"]) == bool(alone) and len(table["player"]) == 2 * bool(met) + bool(alone)


def test_a_game_for_one_knows_what_its_script_does_alone(sweep: Path) -> None:
    summary = json.loads((sweep / "runs/tool/summary.json").read_text())
    first = summary["iterations"][0]
    assert '"alone"' in json.dumps(first) and '"right": {"mean": 1.0' in json.dumps(first)
    assert "guesser" not in set(figures(first))
    page = (sweep / "runs/tool/report/index.html").read_text()
    assert "alone, player" in page and "versus start" not in page


def test_whoever_is_named_for_a_service_sits_there_in_every_stage(sweep: Path) -> None:
    """This judge says the same whatever it hears."""
    played = stages(sweep / "runs/partial") | stages(sweep / "tournament" / "partial")
    assert {each.result.outcome for episodes in played.values() for each in episodes} == {"pro"}
    assert len(played) > 9


def test_what_is_said_around_a_probe_is_as_likely_to_the_learner_as_to_the_sampler(sweep: Path) -> None:
    run = sweep / "runs/judge"
    chats = list(logs(Matches(run / "iter_001/eval/sampled"), "learner"))
    said = [sample for log in chats for sample in log.samples(dict.fromkeys(log.replies(probes=True), (1.0, 1.0)))]
    found = logprobs(said, all_snapshots(run)[1]["learner"], OmegaConf.load(run / "config.yaml").hardware)
    assert len(said) == 2 * len(chats) == 32  # the talk, and the question aside
    assert found == pytest.approx([sum(sample.logprobs or ()) for sample in said], abs=1e-4)


def test_a_suite_is_judged_in_each_of_its_games(sweep: Path) -> None:
    summary = json.loads((sweep / "runs/suite/summary.json").read_text())
    assert summary["metric"] == "library.right"
    assert {"library.right", "debate.won", "debate.judged"} <= set(figures(summary["iterations"][1]))
    assert "debate.won" in (sweep / "runs/suite/report/index.html").read_text()


# --- what is refused -------------------------------------------------------------------------------------------------


NOBODY = ("eval.opponents=[]", "imitate.matches=0", "imitate.players=[]")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["+game={_target_: parlour.Debate}", "+players.judge=learner"], "players.judge: it serves the match"),
        (["+game={_target_: parlour.Debate}", "+players.jugde=partial"], "players.jugde: debate has no such seat"),
        (["+game={_target_: parlour.Debate}", "+players.judge=partail"], "players.judge: there is no player partail"),
        (
            ["+game={_target_: parlour.Debate}", "+players.judge=partial", "backend=vllm", "backend.tensor_parallel=2"],
            "backend.tensor_parallel: each of the 2 ranks of an engine would ask debate's judge",
        ),
        (["+game={_target_: parlour.Library}", "metric=versus.start.right"], "metric: nobody meets anybody in library"),
    ],
)
def test_what_cannot_be_seated_is_refused(words: list[str], says: str, tmp_path: Path) -> None:
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose("config", ["~game", *NOBODY, *words])
    with pytest.raises(ConfigError, match=says):
        build(config, tmp_path)


def test_an_opponent_leaves_services_free_to_be_named(tmp_path: Path) -> None:
    with initialize_config_module("parley.conf", version_base="1.3"):
        words = ["players=alternating", "players.opponent=player", "+players.judge=partial", "metric=sampled.won"]
        config = compose("config", ["~game", "+game={_target_: parlour.Debate}", *NOBODY, *words])
    assert build(config, tmp_path).game.name == "debate"
