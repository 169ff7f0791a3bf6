"""A stored run's config is data: whatever in it could run code, read the environment or send a key is refused."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from parley.cli.of_run import _say, base
from parley.cli.stored import sound, stored
from parley.run.config import ConfigError

GAME = {"_target_": "parley.games.deal.Deal", "max_actions": 8}


def config(*words: str) -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", list(words))


@pytest.fixture
def run(tmp_path):
    def begun(**nodes: Any) -> Path:
        text = OmegaConf.to_yaml(
            OmegaConf.create({"game": GAME, "backend": None, "model": None, "data": None, **nodes})
        )
        (tmp_path / "config.yaml").write_text(text)
        return tmp_path

    return begun


def test_A1_an_honest_node_is_given_back(run):
    assert stored(run(), config(), "game", "backend")["game"] == GAME
    folder = run()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config("experiment=spag_tiny")))
    assert set(stored(folder, config(), "game", "backend", "model", "data")) == {"game", "backend", "model", "data"}


HOSTILE = {
    "a function of a library": {"_target_": "torch.load", "f": "x.pt", "weights_only": False},
    "a function of parley": {"_target_": "parley.system.files.write_text", "path": "x", "text": "y"},
    "a class of parley of another kind": {"_target_": "parley.backends.hf.HFBackend"},
    "a function in the games": {"_target_": "parley.games.base.services"},
    "a module that an import would run": {"_target_": "evil.Game"},
    "a list for a target": {"_target_": ["parley.games.deal.Deal"]},
    "one below": {**GAME, "weight": {"_target_": "os.getcwd"}},
    "one in a list": {**GAME, "contexts": [{"_target_": "os.getcwd"}]},
    "the environment": {**GAME, "contexts": "${oc.env:HOME}"},
    "an argument that the game does not take": {**GAME, "nonsense": 1},
    "positional arguments": {**GAME, "_args_": [1]},
}


@pytest.mark.parametrize("node", HOSTILE.values(), ids=HOSTILE)
def test_A1_a_node_that_is_no_game_is_refused_and_nothing_runs(node, run, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Game: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="nothing is built from its config\n  - game"):
        stored(run(game=node), config(), "game")
    assert not (tmp_path / "ran").exists() and "evil" not in sys.modules


@pytest.mark.parametrize("text", ["${oc.${name}:HOME}", "${${name}.env:HOME}", "a ${oc.\n${name}:HOME}"])
def test_A1_no_resolver_runs_whose_name_another_key_holds(run, text):
    for key, node in (("game", {**GAME, "contexts": text}), ("data", [text])):
        with pytest.raises(ConfigError, match=rf"{key}\.\w+: .* would be computed"):
            sound(run(name="env"), config(), {key: node})


def test_A1_a_stored_node_names_no_options_for_hydra_to_compose(run):
    node = {"credit": {"_target_": "parley.credit.FilteredBC"}, "defaults": [{"/logger@_global_.logger": "wandb"}]}
    with pytest.raises(ConfigError, match=r"objective\.defaults: a stored node names no further options"):
        stored(run(objective=node), config(), "objective")


def test_A1_a_strangers_game_is_built_where_the_command_names_it_too(run):
    node = {"_target_": "strange.Game"}
    mine = OmegaConf.create({"game": {"_target_": "strange.Game"}})
    with pytest.raises(ConfigError, match=r"game\._target_: there is no module strange"):  # named, so it is looked for
        stored(run(game=node), mine, "game")
    with pytest.raises(ConfigError, match="the command does not name it"):
        stored(run(game=node), config(), "game")
    with pytest.raises(ConfigError, match="python -m parley --config-dir FOLDER"):
        stored(run(game=node), config(), "game")


def test_A1_prompts_and_keys_go_only_where_the_command_says(run):
    node = {"_target_": "parley.backends.openai.OpenAIBackend", "url": "http://elsewhere/v1", "key_env": "MY_KEY"}
    with pytest.raises(ConfigError, match=r"backend\.url is 'http://elsewhere/v1': say backend\.url=…"):
        stored(run(backend=node), config(), "backend")
    mine = OmegaConf.create(
        {"opponents": {"judge": {"backend": {"_target_": node["_target_"], "url": "http://mine/v1"}}}}
    )
    with pytest.raises(ConfigError, match=r"opponents\.judge\.backend\.url is 'http://elsewhere/v1': say"):
        stored(run(opponents={"judge": {"backend": node}}), mine, "opponents")
    with pytest.raises(ConfigError, match=r"opponents\.judge\.backend\._target_: .* the command does not name it"):
        stored(run(opponents={"judge": {"backend": node}}), config(), "opponents")
    words = ("backend=openai", "backend.url=http://elsewhere/v1", "backend.key_env=MY_KEY")
    assert stored(run(backend=node), config(*words), "backend")["backend"] == node


@pytest.mark.parametrize("key", ["plya.scenarios", "backend@opponents.critic.backend"])
def test_a_word_that_names_no_key_of_the_config_changes_neither_side(key):
    mine, theirs = config(), OmegaConf.create({"game": GAME})
    _say({key: "openai"}, mine, theirs)
    assert mine == config() and theirs == {"game": GAME}


def test_a_word_below_an_interpolation_is_left_to_hydra():
    mine, theirs = config("imitate=${seed}"), OmegaConf.create({"game": GAME})
    _say({"imitate.matches": 1}, mine, theirs)  # OmegaConf asserts
    assert theirs == {"game": GAME}


@pytest.mark.parametrize(
    ("node", "words", "url"),
    [
        ("backend", ["backend.url=http://mine/v1"], "http://mine/v1"),
        ("backend", ["backend.url=${oc.env:MY_SERVER}"], "http://of-the-environment/v1"),
        ("model", ["model.download=false"], False),
        ("model", ["model.download=true"], True),
    ],
)
def test_A1_a_value_that_the_command_gives_takes_the_place_of_the_runs(run, monkeypatch, node, words, url):
    """The default backend has no url and the default model no download, so that the command alone cannot set them."""
    monkeypatch.setenv("MY_SERVER", "http://of-the-environment/v1")
    kept = {each: None for each in ("game", "model", "backend", "players") if each != node}
    nodes = {
        "backend": {
            "_target_": "parley.backends.openai.OpenAIBackend",
            "_partial_": True,
            "url": "http://elsewhere/v1",
        },
        "model": {"_target_": "parley.models.hub.Pretrained", "path": "org/name", "download": True},
    }
    folder = run(**kept, **{node: nodes[node]})
    words = [f"run={folder}", *words]
    key = words[-1].partition("=")[0]
    with pytest.raises(ConfigError, match=rf"{key} is .*: say {key}=… on the command line"):
        base(words[:1], config)
    assert OmegaConf.select(OmegaConf.create(dict(base(words, config).nodes)), key) == url


SENT = {
    "a download from a hub": (
        "model", {"_target_": "parley.models.hub.Pretrained", "path": "org/name", "download": True}, "model.download",
    ),
    "servers of a backend": (
        "backend", {"_target_": "parley.backends.servers.VLLMServers", "urls": ["http://elsewhere/v1"]}, "backend.urls",
    ),
    "W&B among several trackers": (
        "logger",
        {"_target_": "parley.report.trackers.Several",
         "trackers": {"w": {"_target_": "parley.report.trackers.Wandb", "mode": "online", "entity": "somebody"}}},
        "logger.trackers.w.mode",
    ),
    "W&B by another key": (
        "logger", {"_target_": "parley.report.trackers.Wandb", "mode": "${name}"}, "logger.mode",
    ),
    "a search engine in a list of games": (
        "game", {"_target_": "parley.games.suite.Suite", "games": [{**GAME, "url": "http://elsewhere"}]},
        "game.games.0.url",
    ),
    "a folder of code in a list": (
        "game", {**GAME, "contexts": [[{"_target_": "parley.games.clembench.Clembench", "path": "evil"}]]},
        "game.contexts.0.0.path",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "node", "key"), SENT.values(), ids=SENT)
def test_A1_nothing_is_sent_and_no_folder_run_from_any_depth_of_a_stored_node(run, name, node, key):
    with pytest.raises(ConfigError) as told:
        stored(run(**{name: node}), config(), name)
    settable = key.partition(".0")[0]  # an override can only replace a whole list
    assert f"{key} is " in str(told.value) and f"say {settable}=… on the command line" in str(told.value)
    mine = OmegaConf.create({name: node})
    try:
        stored(run(**{name: node}), mine, name)
    except ConfigError as error:
        assert f"say {key}" not in str(error)  # the command says it, too
