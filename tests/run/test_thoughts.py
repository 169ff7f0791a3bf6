"""A tiny model that imitated scripted thoughts plays Deal through the real decode loop: nobody else ever sees one. (On
1,000 matches of Deal and Taboo: benchmarks/show_faults.py.)"""

from __future__ import annotations

from pathlib import Path

import pytest
from parley.data.episode import Episode
from parley.data.replay import replay
from parley.games.deal import Deal
from parley.models.renderer import Renderer
from parley.report.forks import Forks
from parley.report.transcript import plain
from thinkers import FAMILIES, THOUGHT, Family, faults, played, scripted, taught

GAME = Deal(max_actions=4, retries=1)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> list[Episode]:
    return scripted(GAME, tmp_path_factory.mktemp("scripted") / "s")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_A6_no_thought_stands_in_any_view_and_all_of_it_is_trained(
    tmp_path: Path, episodes: list[Episode], family: Family
) -> None:
    snapshot = taught(tmp_path, family, GAME, episodes)
    matches, backend = played(tmp_path / "p", GAME, snapshot, 24)
    forks, shown = Forks(["me"]), ""
    for episode in matches:
        assert list(faults(GAME, episode, backend, family)) == []
        forks.add(episode)
        shown += plain(episode, replay(GAME, episode).views)
    figures = forks.figures()
    assert figures["thought_share"] > 0.8 and THOUGHT in shown
    assert (figures["forks"] > 20) == (family.fork is not None)
    assert snapshot.version != "" and Renderer.load(snapshot.path).marks is not None  # it went into what was learned
