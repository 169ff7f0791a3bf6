"""A stored run of parley 0.1.0, as it was written then: shown, replayed and exported by the parley of today."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from parley.cli.tasks.exporting import export
from parley.cli.tasks.looking import replay, report, runs, show
from parley.data.episode import SCHEMA, Episode
from parley.data.store import EpisodeStore, Matches

OLD = Path(__file__).parents[1] / "fixtures/run_0_1_0"
PLAYED = sorted(path.parent for path in OLD.rglob("0.jsonl"))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "0.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def config():
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", ["seed=0"])


@pytest.mark.parametrize("folder", PLAYED, ids=lambda folder: folder.relative_to(OLD).as_posix())
def test_old_records_are_read_and_stored_anew_as_the_same_episodes(folder: Path, tmp_path: Path) -> None:
    old = lines(folder)
    assert {line["schema"] for line in old} == {1} and EpisodeStore(folder, shard=None).ids() == {x["id"] for x in old}
    matches = Matches(folder)
    with EpisodeStore(tmp_path, 0) as store:
        for line in old:
            episode = matches[line["id"]]
            assert (episode.parent, episode.extra, episode.own) == (None, {}, episode.turns)
            assert episode.result.blame == ((line["result"]["blame"],) if line["result"]["blame"] else ())
            store.append(episode)
    assert list(Matches(tmp_path)) == list(matches) and {line["schema"] for line in lines(tmp_path)} == {SCHEMA}
    for before, after in zip(old, lines(tmp_path), strict=True):  # nothing is lost on the way
        assert after["turns"] == before["turns"] and after["players"] == before["players"]


def every_match() -> Iterator[tuple[str, Episode]]:
    for folder in PLAYED:
        iteration = folder.relative_to(OLD).parts[0]
        for episode in Matches(folder):
            yield episode.id if episode.id.startswith("iter_") else f"{iteration}/{episode.id}", episode


def test_an_old_run_is_shown_and_replayed(config, tmp_path: Path, capsys) -> None:
    shown = 0
    for match, episode in every_match():
        replay(config, tmp_path, str(OLD), match)
        assert f"{len(episode.turns)} turns replayed" in " ".join(capsys.readouterr().out.split())
        if shown < 3 or episode.result.blame:
            show(config, tmp_path, str(OLD), match)
            said = capsys.readouterr().out
            assert f"outcome: {episode.result.outcome}" in said
            assert not episode.result.blame or f"blamed: {episode.result.blame[0]}" in said
            shown += 1
    assert shown > 3


def test_an_old_run_is_exported_with_all_its_logs(config, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD, run)
    export(config, tmp_path, str(run), "all", None)
    game, played = instantiate(config.game), list(Matches(OLD / "iter_001/play"))
    logs = [json.loads(line) for line in (tmp_path / "messages.jsonl").read_text().splitlines()]
    assert len(logs) == len(played) * len(game.roles)
    said = sorted(turn.text for episode in played for turn in episode.turns)
    assert said == sorted(each["content"] for log in logs for each in log["messages"] if each["role"] == "assistant")


def test_an_old_run_is_listed_and_its_report_written_anew(config, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD, run)
    report(config, tmp_path, str(run), 2)
    page = (run / "report" / "index.html").read_text()
    assert 'class="verdict ' in page
    runs(config, tmp_path, [str(tmp_path)], [])
    assert "finished" in capsys.readouterr().out
