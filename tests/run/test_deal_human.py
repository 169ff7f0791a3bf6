"""experiment=deal_human debug=fast on a made-up data folder in the published format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from parley.cli.tasks import training
from parley.data.sources.lewis import LewisDialogues
from parley.games.deal import Deal
from parley.games.deal.contexts import generate

LINE = "<input> {0} </input> <dialogue> {2} </dialogue> <output> {3} </output> <partner_input> {1} </partner_input>\n"
TALK = "{0}: you take all <eos> {1}: deal <eos> {0}: <selection>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty dialogues, each a line for each player's view: the one who opens gives everything away."""
    lines, contexts = [], []
    for context in list(generate())[::60][:60]:
        views = [" ".join(f"{n} {v}" for n, v in zip(context.counts, each, strict=True)) for each in context.values]
        shares = [" ".join(f"item{k}={n}" for k, n in enumerate(each)) for each in ((0, 0, 0), context.counts)]
        lines.append(LINE.format(*views, TALK.format("YOU", "THEM"), " ".join(shares)))
        lines.append(LINE.format(*views[::-1], TALK.format("THEM", "YOU"), " ".join(shares[::-1])))
        contexts += [f"{view}\n" for view in views]
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.txt").write_text("".join(lines))
    (data / "val.txt").write_text("".join(lines[:6]))
    (data / "selfplay.txt").write_text("".join(contexts))
    return data


def test_B16_fast_runs_to_its_end_without_scripts_that_demonstrate(folder: Path, tmp_path: Path) -> None:
    words = [
        "experiment=deal_human",
        "debug=fast",
        f"data.path={folder}",
        "imitate.limit=40",
        "objective.credit.keep=all",
    ]
    short = ["play.scenarios=4", "play.group=2", "eval.opponents=[]", "game.max_actions=6", "game.retries=0"]
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose("config", [*words, *short, "play.sampling.max_tokens=16", "eval.sampling.max_tokens=16"])
    training.selfplay(config, tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert [row["iteration"] for row in summary["iterations"]] == [0, 1]
    assert not (tmp_path / "run/iter_000/demonstrations").exists()
    told = json.loads((tmp_path / "run/iter_000/start/stage.json").read_text())["outputs"]["learn"]
    assert told["samples"] == 40 * 6


def test_a_limit_is_on_dialogues_and_no_more_than_there_are(folder: Path) -> None:
    for limit, count in ((None, 120), (5, 5), (500, 120)):
        assert len([*LewisDialogues(str(folder), limit=limit).demonstrations(Deal(), "train")]) == count
    versions = [*LewisDialogues(str(folder), versions=6, limit=5).demonstrations(Deal(), "train")]
    assert len(versions) == 30 and versions[-1].id.startswith("train/00005/")
