"""The command line: every config composes, and whatever is wrong is said at once, before anything is built."""

import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from parley import __version__
from parley.cli.main import check
from parley.cli.nodes import fits
from parley.run.config import ConfigError, imitation_learner, overlaid
from parley.run.directory import changed_keys, run_directory, sweep_directory
from parley.run.errors import in_words
from parley.system.naming import locate

from commands import fresh, parley

CONF = Path(__file__).parents[2] / "conf"
PARTS = ("hydra", "rubric", "study", "__pycache__")  # rubrics and studies are parts of other nodes
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name not in PARTS)
OPTIONS = [f"{group}={file.stem}" for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
LOOKS = {
    "judge": "run=a scorer=judge players.judge=dice",
    "exploiter": "run=a",
    "generate": "game=social opponents.writer.model=x",
    "show": "run=a match=b",
    "replay": "run=a match=b",
    "learn": "run=a",
    "tournament": "run=a",
    "export": "run=a",
    "merge": "run=a",
    "report": "run=a",
    "dimensions": "run=a",
}

BESIDE = {
    "learner=openai": "experiment=deal_hosted",  # the default one sets keys of another learner
    "benchmark=tasks": "benchmark.tasks=[x]",  # a list
}


def faults(command: str) -> list[str]:
    """The faults of a command line, without the head line; none when it can be run."""
    try:
        check(shlex.split(command))
    except ConfigError as error:
        return str(error).split("\n  - ")[1:]
    return []


def config(*overrides: str):
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", list(overrides))


# Each line of a table cell is a fault: the words that its message must hold.
WRONG = {
    "sed=1": ["sed=1 | no key sed | did you mean seed"],
    "seed=one": ["seed=one | 'one' | Integer"],
    "seed 3": ["seed: | cannot be read | key=value", "3: | cannot be read"],
    "play.sampling.temprature=1": ["did you mean play.sampling.temperature?"],
    "temperature=1": ["did you mean play.sampling.temperature or eval.sampling.temperature?"],
    "task=shwo": ["task=shwo | no such option | did you mean show? | selfplay"],
    "gmae=deal": ["no key gmae | did you mean game?"],
    "model=hf": ["model.path: needs a value | model.path=… | [model/hf.yaml]"],
    "experiment=deal_human": ["data.path: needs a value | data.path=… | [data/lewis.yaml]"],
    "task=show": ["run: must be text, got nothing | [task/show.yaml]", "match: must be text"],
    "game.payofff=self": ["no key game.payofff | did you mean game.payoff?"],
    "+game.payofff=self": ["game.payofff: Deal takes no such argument | did you mean payoff? | [game/deal_short.yaml]"],
    "game.payoff=selfish": ["game.payoff: must be one of self, coop, comp or a number, got 'selfish'"],
    "game.retries=four": ["game.retries: must be a whole number, got 'four'"],
    "game.retries=true": ["game.retries: must be a whole number, got True"],
    "~game._target_ '+game._target_=parley.games.deal.Dael'": [
        "game._target_: parley.games.deal has no Dael | did you mean Deal?"
    ],
    "game._target_=parley.gmaes.deal.Deal": ["parley has no gmaes | did you mean games?"],
    "game._target_=nowhere.Deal": ["there is no module nowhere"],
    "objective.loss._target_=parley.objectives.filtered_bc": ["is no class or function"],
    "learner.optimizer._target_=parley.learners.optim.AdamX": [
        "learner.optimizer._target_ | parley.learners.optim has no AdamX | AdamW"
    ],
    "learner.optimizer.lr=fast": ["learner.optimizer.lr: must be a number, got 'fast' | [learner/lightning.yaml]"],
    "~learner.optimizer.lr": ["learner.optimizer.lr: AdamW needs this argument"],
    "imitate.learner.optimizer.lr=null": ["imitate.learner.optimizer.lr: must be a number, got nothing (null)"],
    "imitate.learner.epoch=3": [
        "imitate.learner.epoch: LightningLearner takes no such argument | did you mean epochs?"
    ],
    "objective.credit.keep=bets": ["objective.credit.keep: must be one of above_avg, nonzero, all, above_group, best"],
    "+task.speed=3": ["task.speed: selfplay takes no such argument"],
    "start=prevoius": ["start: must be one of previous, base, got 'prevoius'"],
    "play.group=0 play.sampling.top_p=-1": [
        "play.group: must be at least 1, got 0",
        "play.sampling.top_p: must be at least 0",
    ],
    "game=social game.path=. game.test=-1": ["game.test: must be at least 0, got -1"],
    "game=clembench_suite game.path=. game.select={}": [
        "game.select={} changes nothing | ~game.select.benchmark empties it"
    ],
    "hardware.precision=16": [
        "hardware.precision: must be one of 32-true, bf16-true, bf16-mixed | [hardware/cpu.yaml]"
    ],
    "+foo=1 +play.grup=2 ~eval": ["foo: there is no such key", "play.grup | did you mean group?", "eval: is required"],
    "run='${nowhere}'": ["run: Interpolation key 'nowhere' not found"],
    "players.second=old opponents.old.pth=a": [
        "old.pth: there is no such key | did you mean path?",
        "old: needs one of",
    ],
    "opponents.old=a": ["opponents.old: must be a mapping, as {path: …} or {model: …, backend: …}, got 'a'"],
    "opponents.b.model=3 opponents.b.path=x": [
        "opponents.b.model: must be text, got 3",
        "b: needs one of | got path and model",
    ],
    "learner=openai experiment=deal_hosted backend.key_env=sk-0123456789abcdefgh": [
        "backend.key_env: looks like a key | environment"
    ],
    "resume=nowhere": ["resume: there is no directory nowhere"],
    "seed=1,2": ["Ambiguous value | --multirun"],
    "-m seed=1,x,y experiment=deal_tiny,deal_tinny": ["seed=x", "seed=y", "deal_tinny | did you mean deal_tiny"],
    "--sweep": ["--sweep: there is no such flag"],
    "--config-dir nowhere": ["--config-dir: there is no directory nowhere"],
    "model=hff model.path=x seed=a game.payoff=x": [
        "model=hff | did you mean hf?",
        "seed=a",
        "game.payoff: must be one of",
    ],
}


@pytest.mark.parametrize("command", WRONG)
def test_every_fault_is_told_and_nothing_else(command):
    found = faults(command)
    assert len(found) == len(WRONG[command]), found
    for wanted in WRONG[command]:
        assert any(all(part in line for part in wanted.split(" | ")) for line in found), (wanted, found)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_every_group_can_be_run(option):
    group, name = option.split("=")
    command = f"{option} {LOOKS.get(name, '') if group == 'task' else BESIDE.get(option, '')}"
    needed = [line.split(": needs a value: ")[0] for line in faults(command)]  # ??? in the option's own file
    named = {word.partition("=")[0] for word in command.split()}
    assert group == "experiment" or named.issuperset(key.partition(".")[0] for key in needed)
    assert faults(" ".join([command, *(f"{key}=x" for key in needed)])) == []


@pytest.mark.parametrize("rubric", sorted(file.stem for file in (CONF / "rubric").glob("*.yaml")))
def test_every_rubric_can_be_a_game_s_judge(rubric):
    assert faults(f"game=social game.path=x rubric@game.judge={rubric}") == []


@pytest.mark.parametrize("study", sorted({file.stem for file in (CONF / "study").glob("*.yaml")} - {"base"}))
def test_every_study_can_be_a_part_of_the_table(study):
    found = faults(f"task=table run=x +study@table.parts.study={study}")
    needed = [line.split(": needs a value: ")[0] for line in found]  # ??? in the study's own file
    assert all(key.startswith("table.parts.study.") for key in needed)
    assert (
        faults(" ".join([f"task=table run=x +study@table.parts.study={study}", *(f"{key}=x" for key in needed)])) == []
    )


def test_the_default_and_free_player_roles():
    assert faults("") == []
    assert faults("players.first=human players.second=fair imitate.learner.clip=0.5") == []
    assert config("players.first=human").players == {"first": "human"}


def test_experiments_tell_their_purpose_and_command():
    for file in (CONF / "experiment").glob("*.yaml"):
        head = "".join(line for line in file.read_text().splitlines(keepends=True) if line.startswith("#"))
        command = re.search(r"^# Command: parley *(.*)$", head, re.M)
        assert re.search(r"^# Purpose: .{20}", head, re.M) and command, file
        with initialize_config_module("parley.conf", version_base="1.3"):
            chosen = compose("config", shlex.split(command.group(1)), return_hydra_config=True)
        assert chosen.hydra.runtime.choices.experiment == chosen.name == file.stem


FILES = {
    "play: {grup: 3, group: a}": [
        "mine.yaml: there is no key play.grup; did you mean play.group?",
        "mine.yaml: play.group: Value 'a'",
    ],
    "gmae: {payoff: self}": ["mine.yaml: there is no key gmae.payoff; did you mean game.payoff?"],
    "game: {payof: self}": ["game.payof: Deal takes no such argument; did you mean payoff?"],
    "defaults: [{override /game: dael}]": [
        "experiment=mine asks for game=dael: the group game has no such option; did you mean deal?"
    ],
    "seed: [1": ["mine.yaml"],
}


@pytest.mark.parametrize("yaml", FILES)
def test_a_wrong_file_is_named_with_all_that_is_wrong_in_it(tmp_path, yaml):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{yaml}\nname: mine\n")
    found = faults(f"--config-dir {tmp_path} experiment=mine seed=x")
    assert len(found) == len(FILES[yaml]) + 1 and any(line.startswith("seed=x") for line in found), found
    assert [wanted for wanted in FILES[yaml] if not any(wanted in line for line in found)] == [], found


def test_an_experiment_without_its_first_line_is_told_so(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("name: mine\n")
    [told] = faults(f"--config-dir {tmp_path} experiment=mine")
    assert told.startswith("experiment/mine.yaml: its first line must be `# @package _global_`")


def test_a_strangers_game_is_checked_against_its_own_signature(tmp_path, monkeypatch):
    (tmp_path / "game").mkdir()
    (tmp_path / "coins.py").write_text("class Coins:\n    def __init__(self, coins: int, names: list[str] = []): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "game" / "coins.yaml").write_text("_target_: coins.Coins\ncoins: 3\nnames: [a, b]\n")
    assert faults(f"--config-dir {tmp_path} game=coins") == []
    wrong = faults(f"--config-dir {tmp_path} game=coins game.coins=three game.names=[1]")
    assert len(wrong) == 2 and all("[game/coins.yaml]" in line for line in wrong), wrong


# --- resuming --------------------------------------------------------------------------------------------------------


def stored(folder: Path, done: bool = False, *overrides: str) -> Path:
    folder.mkdir(parents=True)
    OmegaConf.save(config(*overrides), folder / "config.yaml")
    (folder / "iter_001/play").mkdir(parents=True)
    (folder / "iter_001/play/0.jsonl").touch()
    if done:
        (folder / "summary.json").write_text("{}")
    return folder


def test_B05_run_directories_are_new_or_the_newest_unfinished_that_can_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = "parley.cli.tasks.training.selfplay"
    assert len({run_directory("x") for _ in range(20)}) == 20
    assert re.fullmatch(r"outputs/x/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{6}", run_directory("x", "auto", task))
    stored(Path("outputs/x/2026-01-01"))
    stored(Path("outputs/x/2026-01-02"))
    stored(Path("outputs/x/2026-01-03"), True)
    stored(Path("outputs/x/2026-01-04"), False, "task=play")
    assert run_directory("x", "auto", task) == "outputs/x/2026-01-02"
    assert run_directory("x", "outputs/x/2026-01-01", task) == "outputs/x/2026-01-01"
    (Path("outputs/x/2026-01-02/config.yaml")).write_text("a: [")
    assert run_directory("x", "auto", task) == "outputs/x/2026-01-01"
    shutil.rmtree("outputs/x/2026-01-01/iter_001/play")  # B: it failed while it loaded its model
    assert not Path(run_directory("x", "auto", task)).exists()
    assert not Path(run_directory("y", "auto", task)).exists()
    stored(Path("multirun/x/2026-01-01/0"), True)
    stored(Path("multirun/x/2026-01-01/1"))
    stored(Path("multirun/x/2026-01-02/0"), True)
    assert sweep_directory("x", "auto") == "multirun/x/2026-01-01"


def test_changed_keys_are_those_that_decide_what_a_run_is():
    old = config()
    assert (
        changed_keys(old, config("resume=auto", "hardware.threads=2", "hardware.micro_tokens=99", "logger=wandb")) == []
    )
    new = config(
        "game.payoff=self", "hardware.precision=bf16-mixed", "learner.optimizer.lr=0.1", "+learner.optimizer.eps=1e-8"
    )
    assert changed_keys(old, new) == [
        "game.payoff",
        "hardware.precision",
        "learner.optimizer.eps",
        "learner.optimizer.lr",
    ]


def test_resuming_with_another_config_names_the_keys_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = stored(tmp_path / "outputs" / "deal_tiny" / "2026-01-01")
    for resume in ("auto", str(old)):
        assert faults(f"resume={resume} hardware.threads=2") == []
        [told] = faults(f"resume={resume} play.group=8")
        assert all(part in told for part in ("play.group", "was 4", "is 8", old.name)), told
    assert sorted(path.name for path in old.iterdir()) == ["config.yaml", "iter_001"]


# --- the pieces ------------------------------------------------------------------------------------------------------


def test_imitation_lays_its_learner_over_the_learner():
    learner = imitation_learner(config("imitate.learner.epochs=7", "learner.clip=5", "learner.batch_utterances=5"))
    assert (learner.epochs, learner.clip, learner.batch_utterances) == (7, 5, 160)  # deal_tiny's own for imitation
    assert learner.optimizer._target_.endswith("Muon") and learner._partial_ is True
    assert overlaid({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}) == {"a": {"b": 1, "c": 3}}
    assert overlaid({"a": {"_target_": "x", "b": 1}}, {"a": {"_target_": "y"}}) == {"a": {"_target_": "y"}}


def test_annotations_decide_what_fits():
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Literal

    good = [
        (1, int),
        (1, float),
        (None, int | None),
        ("a", Literal["a", 1]),
        ([1, 2], Sequence[int]),
        ([], list),
        ("x", Path),
    ]
    good += [
        ({"a": 1}, Mapping[str, int]),
        ([1.0, 2], tuple[float, float]),
        ({"_target_": "x"}, Path | Mapping),
        (3, "unknown"),
    ]
    bad = [
        (True, int),
        (1.0, int),
        ("1", float),
        (None, int),
        (1, bool),
        (True, Literal[1]),
        (["a"], Sequence[int]),
        ("ab", Sequence[str]),
    ]
    bad += [({"a": "b"}, dict[str, int]), ([1], Mapping[str, int]), (1, str)]
    assert [case for case in good if not fits(*case)] == [] and [case for case in bad if fits(*case)] == []


def test_a_target_whose_library_is_missing_says_which(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LookupError, match="needy needs the module a_library_that_nobody_has"):
        locate("needy.Thing")


def test_a_node_that_cannot_be_built_says_the_reason_alone():
    node = {"_target_": "parley.games.qa.questions.FileQuestions", "train": [], "held_out": "shown"}
    with pytest.raises(InstantiationException) as caught:
        instantiate(OmegaConf.create({"game": {"questions": node}}))
    assert in_words(caught.value) == "questions.held_out='shown', expected refuse or leave_out"


def test_a_module_that_lies_in_the_folder_but_not_on_the_path_is_said_to(tmp_path, monkeypatch):
    (tmp_path / "nearby.py").write_text("class Game: pass\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LookupError, match=r"nearby on Python's path: this folder has it, .* python -m parley"):
        locate("nearby.Game")


def test_a_fault_in_code_of_ones_own_is_told_with_its_line(tmp_path, monkeypatch):
    (tmp_path / "hasty.py").write_text("class Game:\n    def __init__(self):\n        self.size = int('many')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InstantiationException) as caught:
        instantiate(OmegaConf.create({"game": {"_target_": "hasty.Game"}}))
    said = in_words(caught.value)
    assert said.startswith("game cannot be built: ValueError: invalid literal") and said.endswith("(hasty.py, line 3)")


# --- as a person meets it --------------------------------------------------------------------------------------------


def test_faults_exit_with_2_and_without_a_traceback(tmp_path):
    done = parley("--cfg", "job", "sed=1", "task=shwo", folder=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.startswith("parley: 2 faults, nothing was run") and list(tmp_path.iterdir()) == []


def test_cfg_shows_the_composed_config_from_any_directory(tmp_path):
    done = parley("--cfg", "job", "experiment=deal_tiny_self", "seed=7", folder=tmp_path)
    assert done.returncode == 0 and OmegaConf.create(done.stdout) == config("experiment=deal_tiny_self", "seed=7")


def test_the_version_is_that_of_parley(tmp_path):
    assert fresh("--version", folder=tmp_path).stdout == f"parley {__version__}\n"


def test_help_lists_groups_options_and_examples_that_work(tmp_path):
    done = parley("--help", folder=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    for group in GROUPS:
        assert re.search(
            rf"^{group}: {', '.join(sorted(file.stem for file in (CONF / group).glob('*.yaml')))}$", done.stdout, re.M
        ), group
    examples = re.findall(r"^parley(.*)\n    \S", done.stdout.partition("== Examples ==")[2], re.M)
    assert len(examples) >= 6
    for example in examples:
        if "my_game" not in example:
            assert faults(example.replace(" --cfg job", "")) == [], example


STRANGE = {  # words of a command line -> a part of what is said of them
    "adapter=null": "adapter=null: a group takes the name of an option: lora, none, qlora",
    "experiment=null": "experiment=null: a group takes the name of an option",
    "players=0": "players=0: a group takes the name of an option",
    "hardware=[1,2]": "a group takes the name of an option: a100x32_fsdp",
    "model=${..}": "a group takes the name of an option: hf",
    "a" * 5000 + "=1": "aaa",
    "name=${oc.env:NOPE}": "name: .*NOPE",
    "name=???": "name: needs a value",
    "name=/abs": "name: is the name of a folder",
    "name=../../x": "name: is the name of a folder",
    "learner=[]": "learner: names no target",
    "schedule=text": "schedule=text: ",
    "resume=": "resume: is empty",
    "policies={one: {objectiv: {}}}": "policies.one: has objectiv, expected some of adapter, objective, learner",
    "policies={a/b: {}}": "policies.a/b: is the name of folders",
    "policies={one: {learner: {epoch: 2}}}": "policies.one.learner.epoch: LightningLearner takes no such argument",
    "learner.optimizer.lr=-1": "learner.optimizer.lr: must be at least 0, got -1",
    "learner.dropout=2.5": "learner.dropout: must be below 1, got 2.5",
    "learner.warmup=5": "learner.warmup: must be at most 1, got 5",
    "learner.clip=-1": "learner.clip: must be at least 0, got -1",
    "model.width=0": "model.width: must be at least 1, got 0",
    "backend.max_batch=0": "backend.max_batch: must be at least 1, got 0",
    "play.sampling.temperature=nan": "must be a finite number, got nan",
    "imitate.partner_weight=inf": "must be a finite number, got inf",
    "name=a=b": "its value holds `=`, .* 'name=\"a=b\"'",
    "run=my run, the second (good)": "its value holds `\\(` `\\)` `,`, .*'run=\"my run, the second \\(good\\)\"'",
    "++imitate.partner_weight=" + "9" * 400: "imitate.partner_weight=999",  # found by the fuzzer, as the next one
    "data=" + "9" * 400: "a group takes the name of an option: .*conversations",
    "runs=[a,b": "lists as key=\\[a,b\\]",
    "+learner.extra.api_key=secret-words": "learner.extra.api_key: looks like a key",
    "+model.url=https://me:pass@host/v1": "model.url: holds a login",
}


@pytest.mark.parametrize("word", STRANGE, ids=lambda word: word[:40])
def test_B03_B04_B14_strange_words_are_told_in_one_message(word):
    with pytest.raises(ConfigError, match=f"(?s)nothing was run.*{STRANGE[word]}"):
        check([word])


def test_B03_a_key_below_a_single_value_is_told():  # found by the fuzzer
    said = faults(shlex.join(["imitate=${seed}", "imitate.matches=[1]"]))
    assert said == ["imitate.matches=[1]: imitate is set to a single value, and holds no keys"]


@pytest.mark.parametrize(
    "word", ["opponents=???", "+opponents.old=???", "+policies={one: ???}", "+schedule.iter_001=???"]
)
def test_B03_a_missing_value_is_told_once(word):  # found by the fuzzer
    (said,) = faults(shlex.quote(word))
    assert "needs a value" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("backend.tensor_parallel=2", "2 ranks of one machine share an engine, and this profile has 1 devices"),
        ("hardware=a100x8_fsdp backend.tensor_parallel=3", "say a number that divides 8"),
        ("backend.tensor_parallel=0", "must be at least 1, got 0"),
    ],
)
def test_what_ranks_cannot_share_is_refused(words, said):
    (fault,) = faults(f"backend=vllm {words}")
    assert fault.startswith("backend.tensor_parallel: ") and said in fault
    assert faults("backend=vllm hardware=a100x8_fsdp backend.tensor_parallel=4") == []


@pytest.mark.parametrize("word", ["experiment", "task=show match=x run"])
def test_B14_secrets_of_the_environment_are_in_no_message(word, tmp_path):
    done = parley(*f"{word}=${{oc.env:MY_KEY}}".split(), folder=tmp_path, MY_KEY="hush-hush/123")
    assert done.returncode == 2 and "hush-hush" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr and word.split()[-1] in done.stderr


def test_B14_secrets_that_come_from_the_environment_may_be_named(monkeypatch):
    monkeypatch.setenv("MY_KEY", "hush-hush/123")
    [told] = faults("'play.sampling.temperature=${oc.env:MY_KEY}'")
    assert "${oc.env:MY_KEY}" in told and "hush-hush" not in told
    monkeypatch.setenv("MY_URL", "https://me:pass@host/v1")
    hosted = "experiment=deal_hosted backend.max_cost=20 backend.price_prompt=1 backend.price_completion=1"
    assert faults(f"{hosted} 'backend.url=${{oc.env:MY_URL}}'") == []
    assert len(faults(f"{hosted} backend.url=https://me:pass@host/v1")) == 1


def test_B04_a_runs_directory_that_is_a_file_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir: .* is a file"):
        check([f"hydra.run.dir={tmp_path}/file"])
