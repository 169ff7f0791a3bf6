"""Where tasks write, what a longer run may be, keys from `.env`, what differs from the experiment, tags."""

import os

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from parley import __version__
from parley.cli.main import check, completed, main
from parley.report.differences import between, differences
from parley.report.listing import runs
from parley.report.redact import from_file
from parley.run.config import ConfigError, register
from parley.run.contents import saved
from parley.run.directory import _lengthened, changed_keys, longer, run_directory
from parley.system import dotenv
from parley.system.files import InputError
from rich.console import Console

register()


def config(*words: str):
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", list(words))


def stored(folder, *words: str):
    folder.mkdir(parents=True)
    OmegaConf.save(config(*words), folder / "config.yaml")
    return folder


def test_B16_a_task_on_a_run_writes_below_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, task = stored(tmp_path / "outputs/x/a"), "parley.cli.tasks.exporting.export"
    assert run_directory("deal_tiny", "none", task, str(run)).startswith(f"{run}/tasks/export/2")
    assert run_directory("deal_tiny", "none", task, str(tmp_path)).startswith("outputs/deal_tiny/2")  # it is no run
    assert run_directory("deal_tiny", "none", task).startswith("outputs/deal_tiny/2")
    sent = stored(tmp_path / "elsewhere/sent")
    monkeypatch.chdir(tmp_path / "outputs")
    assert run_directory("deal_tiny", "none", task, str(sent)).startswith("outputs/deal_tiny/2")
    (run / "tasks").symlink_to(tmp_path)  # in a folder that somebody sent
    assert run_directory("deal_tiny", "none", task, str(run)).startswith("outputs/deal_tiny/2")


def test_only_more_iterations_make_a_run_longer(tmp_path):
    five = config("iterations=5")
    assert longer(five, config("iterations=7")) and not longer(five, config("iterations=4"))
    assert not longer(five, five) and not longer(five, config("iterations=7", "seed=1"))
    assert changed_keys(five, config("iterations=5", "tags=[a]")) == []


@pytest.mark.parametrize(("words", "told"), [((), 1), (("learner.carry=true",), 2)])
def test_a_longer_run_is_unfinished_and_says_what_differs(words, told, tmp_path):
    run = stored(tmp_path / "run", "iterations=5", *words)
    (run / "summary.json").write_text("{}")
    said = _lengthened(saved(run), config("iterations=7", *words), run)
    assert len(said) == told and "goes on to 7 iterations" in said[0] and ("carry" in said[-1]) == bool(words)
    assert saved(run).iterations == 7 and not (run / "summary.json").exists()


def test_keys_come_from_a_file_and_nothing_else_does(tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "WANDB_ENTITY", "MY_TOKEN"):
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", "there already")
    path, before = os.environ["PATH"], dict(os.environ)
    file = tmp_path / ".env"
    file.write_text(
        "# keys\n\nexport OPENAI_API_KEY='a b=c'\nWANDB_ENTITY = team\nMY_TOKEN=\"$HOME\"\nHF_TOKEN=other\n"
        "PATH=/nowhere\nLD_PRELOAD=x.so\nPYTHONPATH=.\n"
        "HF_ENDPOINT=http://elsewhere\nWANDB_BASE_URL=http://elsewhere\nOPENAI_BASE_URL=http://elsewhere\nHF_HUB_OFFLINE=0\n"
    )
    assert dotenv.load(file, from_file) == ["OPENAI_API_KEY", "WANDB_ENTITY", "MY_TOKEN"]
    assert {name: os.environ[name] for name in ("OPENAI_API_KEY", "WANDB_ENTITY", "MY_TOKEN", "HF_TOKEN")} == {
        "OPENAI_API_KEY": "a b=c", "WANDB_ENTITY": "team", "MY_TOKEN": "$HOME", "HF_TOKEN": "there already",
    }  # fmt: skip
    assert os.environ["PATH"] == path and os.environ.keys() - before.keys() == {
        "OPENAI_API_KEY",
        "WANDB_ENTITY",
        "MY_TOKEN",
    }
    assert dotenv.load(tmp_path / "none", from_file) == []
    file.write_text("OPENAI_API_KEY=x\nsk-secret\n")
    with pytest.raises(InputError, match=r"line 2: expected NAME=VALUE$"):
        dotenv.load(file, from_file)


def test_what_differs_is_a_tree_of_the_changed_values(capsys):
    plain, changed = (
        OmegaConf.to_container(config(*words))
        for words in ((), ("play.group=8", "seed=3", "learner.optimizer.lr=5e-3", "objective=grpo", "resume=auto"))
    )
    Console(width=100).print(differences("experiment=deal_tiny, but", plain, changed))
    said = capsys.readouterr().out
    for line in ("seed: 3", "group: 8", "lr: 0.005", "credit: Advantage", "loss: PolicyGradient"):
        assert line in said, line
    assert "scenarios" not in said and "resume" not in said
    assert differences("x", plain, plain) is None


def test_compared_runs_say_what_differs_between_their_settings(capsys):
    words = {"a": (), "b": ("seed=1",), "c": ("seed=1", "play.group=8"), "d": ("play.group=8",)}
    trees = list(between({name: OmegaConf.to_container(config(*each)) for name, each in words.items()}))
    assert len(trees) == 1  # seeds are no setting
    Console(width=100).print(*trees)
    said = capsys.readouterr().out
    assert "c, unlike a" in said and "group: 8" in said and "seed" not in said


def test_runs_are_found_by_their_tags(tmp_path):
    for name, tags in (("a", "[one,two]"), ("b", "[two]"), ("c", "[]")):
        stored(tmp_path / name, f"tags={tags}")
    assert {run.path.name for run in runs([tmp_path])} == {"a", "b", "c"}
    assert {run.path.name for run in runs([tmp_path], ["two"])} == {"a", "b"}
    assert [run.path.name for run in runs([tmp_path], ["two", "one"])] == ["a"]


# --- composed from a run ---------------------------------------------------------------------------------------------


def of_run(*words: str):
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", completed(words))


@pytest.mark.parametrize("words", [("experiment=kuhn_tiny", "seed=3"), ("debug=fast", "adapter=lora")])
def test_a_command_is_composed_from_the_run_that_it_names(words, tmp_path):
    run, begun = stored(tmp_path / "run", *words), config(*words)
    found = of_run("task=play", f"run={run}", "play.scenarios=1")
    assert found.task._target_.endswith("play") and (found.run, found.play.scenarios) == (str(run), 1)
    assert changed_keys(begun, found) == ["play.scenarios", "task._target_", "task.run"]
    assert longer(begun, of_run(f"resume={run}", f"iterations={begun.iterations + 1}"))
    assert of_run("task=tournament", f"runs=[{run}]").game == begun.game
    assert of_run(f"run={run}", "game=leduc", "backend=vllm").game._target_.endswith("Leduc")
    assert of_run("experiment=spag_tiny", f"run={run}").name == "spag_tiny"  # an experiment that is said counts
    assert of_run("task=show", f"run={run}").name == "deal_tiny"  # and a task that looks builds what it needs itself


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("backend=openai", "backend.url=http://elsewhere/v1"),
            "backend.url is 'http://elsewhere/v1': say backend.url=",
        ),
        (("imitate.loss._target_=os.getcwd",), "imitate.loss._target_: 'os.getcwd' is no imitate of parley"),
        (("name='${oc.env:HOME}'",), "name: .* would be computed"),
        (("game.payoff='${nowhere}'",), "game: Interpolation key 'nowhere' not found"),
        (("logger=wandb", "logger.mode=online"), "logger.mode is 'online': say logger.mode="),
        (("game=clembench", "game.path=evil"), "game.path is 'evil': say game.path="),
    ],
)
def test_what_a_stored_run_may_not_decide_is_refused(words, said, tmp_path):
    run = stored(tmp_path / "run", *words)
    with pytest.raises(ConfigError, match=rf"nothing is built from its config\n  - {said}"):
        of_run(f"resume={run}")


def test_code_of_ones_own_is_what_ones_config_folder_names(tmp_path):
    run = stored(tmp_path / "run", "game._target_=mine.Game")
    (tmp_path / "conf/game").mkdir(parents=True)
    (tmp_path / "conf/game/mine.yaml").write_text("_target_: mine.Game\n")
    with pytest.raises(ConfigError, match="the command does not name it"):
        check(["task=play", f"run={run}"])
    with pytest.raises(ConfigError, match="there is no module mine"):  # which is looked for, then
        check(["--config-dir", str(tmp_path / "conf"), "task=play", f"run={run}"])


def test_the_version_is_parley_s(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["parley", "--version"])
    main()
    assert capsys.readouterr().out == f"parley {__version__}\n"
