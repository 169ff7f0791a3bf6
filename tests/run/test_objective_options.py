"""Objectives as options: what each composes to, where its demonstrations come from, and which reference it is given."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from parley.cli.main import check
from parley.credit import FilteredBC, SpinPairs
from parley.data.episode import Call, Episode, Turn
from parley.data.sample import Demonstration, Sample
from parley.data.store import EpisodeStore
from parley.games.base import Message, Result, Scenario
from parley.games.deal import Deal
from parley.learners.optim import RMSProp
from parley.models import snapshot
from parley.models.snapshot import Snapshot
from parley.models.tiny import word_tokenizer
from parley.report.progress import Progress
from parley.run.build import build
from parley.run.config import ConfigError
from parley.run.demonstrations import Demonstrations
from parley.run.directory import changed_keys
from parley.run.loop import Loop
from parley.run.parts import Parts, Policy, Recipe
from parley.run.run import Run
from parley.run.stages import StageChanged
from parley.system.files import InputError
from rich.console import Console

OBJECTIVES = {
    "filtered_bc": False,
    "offline_po": True,
    "sft_kl": True,
    "spin": True,
    "sft": False,
}  # whether a reference is needed
FORMED = [name for name, referring in OBJECTIVES.items() if referring]


def config(*overrides: str) -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", list(overrides))


def faults(command: str) -> list[str]:
    try:
        check(shlex.split(command))
    except ConfigError as error:
        return str(error).split("\n  - ")[1:]
    return []


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_composes_and_is_built(name: str) -> None:
    assert faults(f"objective={name} old=recorded") == []
    node = config(f"objective={name}").objective
    loss, credit = instantiate(node.loss), instantiate(node.credit)
    assert ("old" in loss.columns) is OBJECTIVES[name] and credit.mix == (None if name in ("spin", "sft") else 0)


@pytest.mark.parametrize("name", FORMED)
def test_one_word_chooses_the_published_form(name: str) -> None:
    for form, scope in (("corrected", "batch"), ("faithful", "micro")):
        loss = instantiate(config(f"objective={name}", f"objective.form={form}").objective.loss)
        assert (loss.form, loss.scope) == (form, scope)
    [told] = faults(f"objective={name} objective.form=publishd")
    assert told.startswith("objective.form: must be one of corrected, faithful, got 'publishd'"), told


def test_a_reference_is_a_word_or_a_model_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert faults(f"old={tmp_path} reference={tmp_path}") == []
    [told] = faults("old=recored")
    assert told == "old: 'recored' is no model folder; did you mean recorded?"
    [told] = faults("reference=strat")
    assert told == "reference: 'strat' is no model folder; did you mean start?"
    [told] = faults("+learner.old=pass")
    assert told.startswith("learner.old: LightningLearner takes no such argument")


def test_a_resumed_run_may_change_its_mind_about_the_pass_but_not_about_the_model() -> None:
    old = config("objective=offline_po")
    assert changed_keys(old, config("objective=offline_po", "old=recorded")) == []
    assert changed_keys(old, config("objective=offline_po", "old=elsewhere")) == ["old"]


def test_the_reference_reaches_the_learner_and_missing_demonstrations_are_told_first(tmp_path: Path) -> None:
    built = build(config("old=recorded", "objective=offline_po"), tmp_path)
    assert built.policies["learner"].recipe(1).learner.old == "recorded" and built.imitator.old == "pass"
    words = ["objective=spin", "game=tales", "data=replies", "imitate.matches=0", "eval.opponents=[]"]
    paired = config(*words, "metric=sampled.score")
    assert build(paired, tmp_path).policies["learner"].recipe(1).credit.mix is None
    mixing = build(config("objective=offline_po", "objective.credit.mix=9"), tmp_path)
    assert mixing.policies["learner"].recipe(1).credit.mix == 9
    for words in (["objective=spin"], ["objective=offline_po", "objective.credit.mix=9"]):
        with pytest.raises(ConfigError, match="wants demonstrations, and there are none"):
            build(config(*words, "imitate.matches=0"), tmp_path)


def test_credit_that_pairs_wants_demonstrations_of_the_scenarios(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="scripts play matches of their own: use a game whose scenarios have real replies"
    ):
        build(config("objective=spin"), tmp_path)
    with pytest.raises(InputError, match="the scenarios of deal hold no real reply"):
        build(config("objective=sft", "data=replies"), tmp_path)


# --- a schedule ------------------------------------------------------------------------------------------------------

PUBLISHED = ["experiment=spin_zephyr7b", "model.path=m"]


def test_the_published_schedule_of_spin(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    rows = (
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]} for n in range(300)
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = build(config(*PUBLISHED, f"game.train={file}"), tmp_path)
    recipes = [parts.policies["learner"].recipe(number) for number in range(1, 6)]
    assert [recipe.learner.optimizer.lr for recipe in recipes] == [5e-7, 5e-7, 1e-7, 1e-7, 1e-7]
    assert [recipe.learner.loss.beta for recipe in recipes] == [0.1, 0.1, 0.1, 5.0, 5.0]
    assert [recipe.nodes["objective"]["loss"]["beta"] for recipe in recipes] == [0.1, 0.1, 0.1, 5.0, 5.0]
    for recipe in recipes:
        learner = recipe.learner
        assert (
            isinstance(learner.optimizer, RMSProp)
            and learner.optimizer.weight_decay == 0
            and learner.loss.kind == "sigmoid"
        )
        assert (learner.epochs, learner.batch_utterances, learner.schedule, learner.warmup) == (2, 128, "linear", 0.1)
    settings = parts.config
    assert (settings.iterations, settings.replay, settings.game.limit, settings.play.sampling.max_tokens) == (
        4,
        1,
        50000,
        256,
    )


def test_a_schedule_is_checked_like_what_it_changes() -> None:
    assert faults("schedule.iter_002.learner.optimizer.lr=1e-4 schedule.iter_003.objective.loss.reduce=utterance") == []
    wrong = {
        "schedule.iter_002.learner.optimizer.rate=1": "schedule.iter_002.learner.optimizer.rate: AdamW takes no such "
        "argument",
        "schedule.iter_002.objective.loss.reduce=words": "schedule.iter_002.objective.loss.reduce: must be one of "
        "token, utterance",
        "schedule.iter_002.play.group=1": "schedule.iter_002: changes play, expected objective or learner",
        "schedule.second.learner.epochs=1": "schedule.second: is no iteration: say iter_001",
        "schedule.iter_002=3": "schedule.iter_002: changes 3, expected objective or learner",
    }
    for words, expected in wrong.items():
        [told] = faults(words)
        assert told.startswith(expected), told
    [told] = faults("learner.optimizer.rate=1 schedule.iter_002.learner.epochs=3")
    assert told.startswith("learner.optimizer.rate")


def test_a_scheduled_change_is_an_input_of_its_stage(tmp_path: Path) -> None:
    begin, other = folder_of(tmp_path / "start"), Notes()
    changed = Recipe({"objective": {}, "learner": {"epochs": 9}}, FilteredBC("all"), cast(Any, other))
    made, notes = loop(tmp_path / "run", FilteredBC("all"), None, changes={2: changed})
    learn(made, 1, begin)
    learn(made, 2, begin)
    assert (len(notes.given), len(other.given)) == (1, 1)
    again, _ = loop(tmp_path / "run", FilteredBC("all"), None)
    learn(again, 1, begin)
    with pytest.raises(StageChanged):
        learn(again, 2, begin)


def test_matches_to_imitate_want_scripts_that_play_them() -> None:
    run: Any = SimpleNamespace(game=Deal(), config=config("imitate.players=[]"), seed=0)
    with pytest.raises(
        InputError, match=r"imitate.matches is 8, and imitate.players names none of the game's scripts \(naive, fair, "
    ):
        next(Demonstrations(run)._seatings("train", 8))


# --- demonstrations on their way into a round
# ----------------------------------------------------------------------------


class Chats:
    """A data node: the same question with another answer each, one for each scenario."""

    def __init__(self, count: int) -> None:
        self.count, self.asked = count, 0

    def demonstrations(self, game: Any, split: str) -> list[Demonstration]:
        self.asked += 1
        chats = [(Message("user", "hello"), Message("assistant", f"w{number}")) for number in range(self.count)]
        return [Demonstration(f"s{number}", chat, (0.0, 1.0)) for number, chat in enumerate(chats)]


class Notes:
    """A learner that only writes down what it is given."""

    reads = "tokens"
    loss = SimpleNamespace(columns=())

    def __init__(self) -> None:
        self.given: list[list[Sample]] = []

    def learn(
        self, samples: Sequence[Sample], snapshot: Snapshot, folder: Path, **rest: Any
    ) -> tuple[Snapshot, dict[str, Any]]:
        self.given.append(list(samples))
        return snapshot, {}


def folder_of(path: Path) -> Snapshot:
    """A snapshot with a tokenizer, which is all that rendering needs."""
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    word_tokenizer([[Message("user", "hello " + " ".join(f"w{number}" for number in range(50)))]]).save_pretrained(path)
    return snapshot.of(path, "start")


NONE: Mapping[int, Recipe] = MappingProxyType({})


def loop(
    out: Path, credit: Any, data: Any, *words: str, scorer: Any = None, changes: Mapping[int, Recipe] = NONE
) -> tuple[Loop, Notes]:
    """A loop whose run has played two rounds of one match for each of six scenarios: the learner's seat, and the
    start's opposite."""
    from parley.models.renderer import Renderer

    begin = snapshot.of(out.parent / "start", "start")
    prompt = Renderer.load(begin.path).encode([Message("user", "hello")])
    for number in (1, 2):
        if (out / f"iter_{number:03d}/play").exists():
            continue
        with EpisodeStore(out / f"iter_{number:03d}/play") as store:
            for at in range(6):
                calls = {seat: Call(prompt, (7 + at, 6), (-0.5, -0.5), begin.version) for seat in ("a", "b")}
                turns = tuple(Turn(f"{seat}.0", seat, "act", "x", call=call) for seat, call in calls.items())
                who = {"a": "learner", "b": "start"}, dict.fromkeys("ab", begin.version)
                result = Result({"a": float(at), "b": 9.0}, "over")
                store.append(
                    Episode(f"iter_{number:03d}/play/s{at}/0", "g", 1, Scenario(f"s{at}", {}), 0, *who, turns, result)
                )
    notes: Any = Notes()
    recipe = Recipe({"objective": {}, "learner": {}}, credit, notes)
    game: Any = SimpleNamespace(roles=("a", "b"), scripts=dict)
    parts = Parts(
        config=config("data=lewis", "data.path=x", "imitate.matches=0", *words), game=game, model=None, backend=None,
        policies={"learner": Policy(None, None, {0: recipe, **changes})}, imitator=notes, data=data, scorer=scorer,
    )  # fmt: skip
    return Loop(Run(parts, out, Progress(Console(quiet=True)))), notes


def learn(made: Loop, number: int, begin: Snapshot) -> None:
    """Learns from a round that is there already."""
    made.iteration(number, [{"learner": begin}], Run(made.parts, made.run.out, made.run.progress))


def test_a_scorers_scores_are_written_once_and_told_to_credit(tmp_path: Path) -> None:
    """Scored by how little the payoff is: the matches that paid least are kept."""
    begin, credit = folder_of(tmp_path / "start"), FilteredBC("above_avg", score="modesty")
    made, notes = loop(tmp_path / "run", credit, None, "scorer=rules", scorer=Modesty())
    learn(made, 1, begin)
    assert [sample.id for sample in notes.given[0]] == [f"iter_001/play/s{at}/0/a/0" for at in range(3)]
    assert made.run.outputs("iter_001/play/score")["learner"]["modesty"]["mean"] == -2.5
    rows = [json.loads(line) for line in (tmp_path / "run/iter_001/play/score/scores.jsonl").read_text().splitlines()]
    assert rows[5] == {"id": "iter_001/play/s5/0", "scores": {"modesty": {"a": -5.0, "b": -9.0}}}
    unscored, _ = loop(tmp_path / "other", credit, None)
    with pytest.raises(InputError, match="score='modesty': match iter_001/play/s0/0 has no such metric"):
        learn(unscored, 1, begin)
    assert unscored.scoring.score("iter_001/play") == {} and not (tmp_path / "other/iter_001/play/score").exists()


class Modesty:
    def __call__(self, episode: Episode) -> dict[str, dict[str, float]]:
        return {"modesty": {seat: -payoff for seat, payoff in episode.result.returns.items()}}


def test_a_file_of_data_that_was_changed_is_not_taken_for_what_it_was(tmp_path: Path) -> None:
    folder_of(tmp_path / "start")
    file = tmp_path / "chats.jsonl"
    made, _ = loop(tmp_path / "run", FilteredBC("all"), None)
    assert made.run.node("game") == loop(tmp_path / "again", FilteredBC("all"), None)[0].run.node(
        "game"
    )  # as the config has it
    digests = []
    for text in ("hello", "hello", "hallo"):
        file.write_text(text)
        made, _ = loop(tmp_path / str(len(digests)), FilteredBC("all"), Filed(file))
        digests.append(made.start.demonstrations.inputs("train")["data"]["content"])
    assert digests[0] == digests[1] != digests[2] and digests[0].keys() == {"path"}


class Filed:
    def __init__(self, path: Path) -> None:
        self.files = {"path": path}


def test_no_demonstration_is_rendered_unless_credit_wants_it(tmp_path: Path) -> None:
    begin, data = folder_of(tmp_path / "start"), Chats(20)
    made, notes = loop(tmp_path / "run", FilteredBC("all"), data)
    learn(made, 1, begin)
    [samples] = notes.given
    assert data.asked == 0 and [sample.id for sample in samples] == [f"iter_001/play/s{at}/0/a/0" for at in range(6)]


def test_a_mix_is_drawn_anew_for_each_round(tmp_path: Path) -> None:
    begin = folder_of(tmp_path / "start")
    rounds = {}
    for name, count, words in (("run", 5, ()), ("again", 5, ()), ("seed", 5, ("seed=1",)), ("all", 50, ())):
        made, notes = loop(tmp_path / name, FilteredBC("all", mix=count), Chats(20), *words)
        learn(made, 1, begin)
        learn(made, 2, begin)
        mixed = [[sample for sample in samples if not sample.policy] for samples in notes.given]
        assert {each.kind for samples in mixed for sample in samples for each in sample.utterances} == {"sft"}
        assert all(len(sample.utterances) == 1 and sample.token_ids for samples in mixed for sample in samples)
        rounds[name] = [{sample.id for sample in samples} for samples in mixed]
    assert [len(ids) for ids in rounds["run"]] == [5, 5] and rounds["run"][0] != rounds["run"][1]
    assert rounds["again"] == rounds["run"] != rounds["seed"]
    assert [len(ids) for ids in rounds["all"]] == [20, 20]  # as many as there are


def test_real_text_meets_its_scenario_and_a_window_keeps_earlier_pairs(tmp_path: Path) -> None:
    begin = folder_of(tmp_path / "start")
    made, notes = loop(tmp_path / "run", SpinPairs(), Chats(4), "replay=1")
    learn(made, 1, begin)
    learn(made, 2, begin)
    first, second = ([(sample.group, sample.utterances[0].side) for sample in samples] for samples in notes.given)
    assert first == [(f"iter_001/play/s{at}/0/a", side) for at in range(4) for side in (1, -1)]
    assert second[:8] == first and len(second) == 16
