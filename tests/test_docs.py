"""The pages are true: their commands compose, their paths exist, every room, experiment and metric has its line."""

import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf
from parley.cli.main import check

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()
START = re.compile(r"^(?:python -m )?parley\b")


def commands() -> list[tuple[str, str]]:
    """(page, command line) of every fenced shell line and every inline code that begins with `parley` and says
    something."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = [line for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S) for line in block.splitlines()]
        inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
        found += [
            (page.name, line)
            for line in lines + [code for code in inline if "=" in code or code == "parley"]
            if START.match(line)
        ]
    return found


def test_there_are_commands_to_check():
    assert len(commands()) >= 25 and {"README.md", "add_a_game.md"} <= {page for page, _ in commands()}


@pytest.mark.parametrize(("page", "command"), commands(), ids=[command for _, command in commands()])
def test_every_command_can_be_run(page, command, tmp_path, monkeypatch):
    """Composed and validated, as `parley` does it before it builds anything."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path / "examples")
    monkeypatch.syspath_prepend(tmp_path / "examples")
    words = shlex.split(START.sub("", command), comments=True)
    for word in words:
        if word.startswith("resume=outputs"):  # as after the run that the page speaks of
            Path(word.partition("=")[2]).mkdir(parents=True)
    check(words)


PATH = re.compile(r"(?<![\w/.])(?:src|tests|conf|docs|examples|benchmarks)/[\w./-]*\w")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page):
    """Links too. A reader's own folder is the one of examples/."""
    text = page.read_text()
    links = {link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link}
    paths = set(PATH.findall(re.sub(r"\]\([^)]+\)", "]", text)))
    missing = [path for path in sorted(paths) if not (ROOT / path).exists() and not (ROOT / "examples" / path).exists()]
    assert missing + [link for link in sorted(links) if not (page.parent / link).exists()] == []


def test_every_config_group_is_named():
    page = (ROOT / "docs" / "architecture.md").read_text().partition("## Config")[2].partition("\n## ")[0]
    groups = [path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "hydra"]
    assert [name for name in groups if not name.startswith("__") and not re.search(rf"\b{name}\b", page)] == []


def test_the_readme_is_short():
    assert len(README.split()) <= 1300


def test_every_experiment_has_its_row():
    table = (ROOT / "docs" / "experiments.md").read_text()
    names = [path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")]
    assert [name for name in names if not re.search(rf"^\| `{name}` \|.*`parley.*` \|", table, re.M)] == []


LIBRARIES = ("clembench", "clembench_suite", "textarena")


@pytest.mark.parametrize("game", sorted((ROOT / "conf" / "game").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_metric_of_every_game_is_defined(game):
    page = (ROOT / "docs" / "metrics.md").read_text()
    if game.stem in LIBRARIES:  # built only where the library is installed
        metrics = set(import_module(f"parley.games.{game.stem.partition('_')[0]}.match").METRICS)
        assert [name for name in metrics if f"\n| `{name}` |" not in page] == []
        return
    with initialize_config_module("parley.conf", version_base="1.3"):
        node = compose("config", [f"game={game.stem}"]).game
        for missing in [
            key for key in node if OmegaConf.is_missing(node, key)
        ]:  # a file of the user's, which the rules do not open
            node[missing] = str(game)
        metrics = {name.rpartition(".")[2] for name in instantiate(node).facts.metrics}  # a suite's are member.name
    assert metrics and [name for name in metrics if f"\n| `{name}` |" not in page] == []


def test_every_module_that_the_architecture_names_is_there_and_every_room_is_named():
    page = (ROOT / "docs" / "architecture.md").read_text()
    for room in (ROOT / "src").iterdir():
        if (room.is_dir() or room.suffix == ".py") and not room.name.startswith("__"):
            assert f"`src/{room.name}{'/' if room.is_dir() else ''}`" in page, room.name
    for room, names in re.findall(r"^\| \d+ \| `src/(\w+)/` \| (.*) \|$", page, re.M):
        for name in re.findall(r"`(\w+\.py)`", names):
            assert (ROOT / "src" / room / name).exists(), f"src/{room}/{name}"
