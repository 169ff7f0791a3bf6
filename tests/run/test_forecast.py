"""task=plan: what it says of a published recipe, of a run, and of what does not fit."""

import json
import re
import shlex
from functools import cache

import huggingface_hub.constants as hub
import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf
from parley.batches.packing import Budget
from parley.batches.plan import plan as planned
from parley.cli.main import check
from parley.cli.tasks.planning import plan
from parley.learners.memory import Memory, Model
from parley.models.published import shape
from parley.objectives.filtered_bc import FilteredBC
from parley.run.beside import beside
from parley.run.config import ConfigError
from parley.run.forecast import stated
from test_gguf import llama, write
from test_hub import lay

SMALL = (
    "stated.model=llama2_7b 'stated.samples=[{layout:chats,groups:640,prompt:30,replies:[10,10],between:10}]' "
    "stated.source='a test'"
)

HOSTED = "learner=openai ~learner.batch_utterances ~imitate.learner.batch_utterances ~imitate.learner.optimizer"


def told(command: str, capsys, tmp_path, run=None) -> str:
    """What `parley task=plan …` says. The command line is checked as `parley` does it, so nothing that it lacks is
    missed."""
    check(["task=plan", *shlex.split(command)])
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose("config", ["task=plan", *shlex.split(command)])
    try:
        plan(config, tmp_path, run, False)
    finally:
        said = " ".join(capsys.readouterr().out.split())
    assert not any(tmp_path.iterdir())
    return said


def test_a_published_recipe_is_explained_without_weights_or_data(capsys, tmp_path):
    said = told("experiment=spin_zephyr7b hardware=a100x8_fsdp", capsys, tmp_path)
    for words in (
        "published shape mistral_7b", "of which 7,241,732,096 are trained", "100,000 samples with 100,000 utterances "
                                                                            "(stated, not real:",
        "782 optimiser steps an epoch; 2 epochs of them are 1,564", "all 4 rounds are 10,942 steps, from the second on",
        "rises to 5e-07 over the first 157 steps (10%), then falls in a line to 0", "From iter_004 on: "
                                                                                    "objective.loss.beta=5.0",
        "89,500,000 with a row for each utterance", "63,900,000 packed as trees (1.4 times fewer", "A step on 8 ranks",
        "what RMSProp keeps for them, shared by 8 ranks", "there is │ 80.000 │ hardware=a100x8_fsdp",
    ):  # fmt: skip
        assert words in said, words


@pytest.mark.parametrize(
    ("options", "steps"),
    [("", "5 epochs of them are 730."),
     ("learner.epochs=20 'stated.samples=[{layout:chats,groups:6336,prompt:760,replies:[54]}]'", "of them are 7,920.")],
)  # fmt: skip
def test_sotopia_pi_takes_as_many_steps_as_were_published(options, steps, capsys, tmp_path):
    said = told(f"experiment=social_mistral7b {options}", capsys, tmp_path)
    assert steps in said and "of which 3,407,872 are trained" in said and "over the first" in said


def test_spin_on_rollouts_at_the_published_scale_fits(capsys, tmp_path):
    """1,344 questions, a pair each, three replies a side: 8,064 utterances in batches of 384, two epochs; the three
    later rounds have the pairs of the one before as well."""
    asked = "model.path=Mistral-7B data.path=rows.json 'game.questions.test=[{path: dev.json, task: hotpotqa}]'"
    said = told(f"experiment=qa_mistral7b {asked}", capsys, tmp_path)
    assert -(-8064 // 384) == 21 and 2 * 21 + 3 * 2 * 42 == 294
    for words in (
        "published shape mistral_7b", "2,688 samples with 8,064 utterances (stated, not real: 1,344 questions",
        "are 21 optimiser steps an epoch; 2 epochs of them are 42", "all 4 rounds are 294 steps, from the second on",
        "rises to 5e-07 over the first 5 steps (10%), then falls in a line to 0",
        "From iter_003 on: learner.optimizer.lr=1e-07", "From iter_004 on: objective.loss.beta=5.0",
        "there is │ 80.000 │ hardware=a100x8_fsdp",
    ):  # fmt: skip
        assert words in said, words


@pytest.fixture
def folder(tmp_path_factory):
    """A folder with the config of a small model, and no weights."""
    config = shape("llama2_7b")
    config.update(
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        }
    )
    path = tmp_path_factory.mktemp("model")
    config.save_pretrained(path)
    return path


@pytest.mark.parametrize("hardware", ["a100x32_fsdp", "gpu_qlora", "cpu"])
def test_a_folder_with_a_config_is_enough(hardware, folder, capsys, tmp_path):
    said = told(f"model=hf model.path={folder} {SMALL} hardware={hardware}", capsys, tmp_path)
    assert f"the config of {folder}" in said and f"hardware={hardware}" in said
    assert ("Some ranks have nothing to do" in said) == (hardware == "a100x32_fsdp")


def test_a_gguf_file_and_a_hub_id_are_planned_from_their_heads(folder, capsys, tmp_path, tmp_path_factory, monkeypatch):
    place = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(place))
    file = write(llama(), place / "small.gguf")
    command = f"model=hf {SMALL} hardware=cpu model.path="
    assert f"the config of {file}" in told(command + str(file), capsys, tmp_path)
    lay(folder, "lab/small", place)  # of which there are no weights
    assert "the config of lab/small" in told(f"{command}lab/small", capsys, tmp_path)
    said = told(f"{command}lab/other hardware.memory_gib=1000", capsys, tmp_path)
    assert "published shape llama2_7b (lab/other is no folder here and not in the Hugging Face cache" in said


def test_rounds_and_passes_are_counted(folder, capsys, tmp_path):
    model = f"model=hf model.path={folder} {SMALL} learner.batch_utterances=64 learner.epochs=1 iterations=3"
    said = told(f"{model} rounds=5 learner.warmup=0.1 objective=offline_po", capsys, tmp_path)
    assert "1,280 utterances in global batches of 64 are 20 optimiser steps an epoch" in said
    assert "Rounds: an iteration has 5; if they are alike, these are 100 steps of one optimiser" in said
    assert "all 15 rounds are 300 steps" in said and "over the first 10 steps (10%)" in said
    packed = re.search(r"([\d,]+) with padding", said)[1]
    assert f"(old=pass): one forward pass over about {packed} tokens before" in said and "fixed model" not in said
    said = told(f"{model} old=recorded objective=offline_po", capsys, tmp_path)
    assert "(old=recorded): as recorded in play" in said and "Rounds:" not in said
    assert "nothing: each model is gone before" in said


class Anchored(FilteredBC):
    """A loss that compares with a fixed model."""

    columns = ("reference",)


def held(*words):
    """What stays beside a policy of a small model, and the sizes of that: all weights, an adapter, an optimiser."""
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose("config", list(words))
    learner = instantiate(config.learner)(loss=Anchored(), hardware=config.hardware, old=config.old)
    shaped = shape("llama2_7b")
    shaped.update({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4})
    shaped.update({"num_key_value_heads": 4, "head_dim": 16})
    model = Model(shaped, instantiate(config.adapter) if config.adapter else None)
    whole, trained = model.parameters()
    memory = Memory("step", weights=4 * whole, gradients=0, optimizer=8 * trained, activations=0, logits=0)
    return list(beside(config, learner, model, memory).values()), whole, trained


def test_what_stays_beside_a_policy_is_counted():
    assert held()[0] == []  # one round: a model at a time
    found, whole, _ = held("rounds=2")
    assert found == [4 * whole]  # reference=start
    found, whole, trained = held("rounds=2", "adapter=lora")
    assert found == [4 * trained] and trained < whole / 10  # the base is shared
    assert held("rounds=2", "adapter=lora", "reference=base")[0] == []
    found, whole, trained = held("rounds=2", "adapter=lora", "reference=base", "+policies={a: {}, b: {}, c: {}}")
    assert found == [2 * (4 * trained + 8 * trained)]
    found, whole, _ = held("rounds=2", "hardware=gpu")
    assert found == [4 * whole, 2 * whole]  # the backend plays in bfloat16
    found, whole, _ = held("rounds=2", "hardware=a100x8_fsdp")
    assert found == [pytest.approx(4 * whole / 8), 2 * whole]


@cache
def micro_batches(samples: str, utterances: int, micro: int, row: int) -> list[int]:
    """How many each step of a part of the stated samples has."""
    node = OmegaConf.create({"samples": json.loads(samples), "source": ""})
    steps = planned(stated(node, utterances).part, Budget(row, micro), seed=0, epochs=1, batch_utterances=utterances)
    return [len(step.micros) for step in steps]


@pytest.mark.parametrize("hardware", ["a100x8_fsdp", "a100x8_qlora", "a100x32_fsdp", "a100x32_qlora"])
@pytest.mark.parametrize("experiment", ["spag_llama2_7b", "spag_llama2_13b", "spin_zephyr7b"])
def test_every_rank_has_work_in_every_step_of_the_published_recipes(experiment, hardware):
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose("config", [f"experiment={experiment}", f"hardware={hardware}"])
    samples, profile = json.dumps(OmegaConf.to_container(config.stated.samples)), config.hardware
    found = micro_batches(samples, config.learner.batch_utterances, profile.micro_tokens, profile.row_tokens)
    assert len(found) >= 8 and min(found) >= profile.devices * profile.nodes


def test_what_does_not_fit_is_explained_and_then_refused(folder, capsys, tmp_path):
    tight = f"model=hf model.path={folder} {SMALL} hardware=gpu hardware.memory_gib=1.01"
    with pytest.raises(
        ConfigError,
        match=r"a device needs 1\.\d GiB and has 1\.01 .* the logits with .*: a smaller hardware\.head_chunk",
    ):
        told(tight, capsys, tmp_path)
    with pytest.raises(ConfigError, match=r"activation_checkpointing=true, or"):
        told(f"{tight} hardware.head_chunk=8 hardware.activation_checkpointing=false", capsys, tmp_path)
    assert told(f"{tight} hardware.memory_gib=3", capsys, tmp_path)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "nothing says which samples"),
        (HOSTED, "learning on one's own devices"),
        (f"model=hf {SMALL} stated.model=llama3", "no such shape, only mistral_7b"),
        (f"{SMALL} stated.model=null", "the model's shape is not known"),
        ("model=hf 'stated.samples=[{layout:trees,groups:1,prompt:1,replies:[1]}]'", "layout is 'trees'"),
    ],
)
def test_what_is_not_known_is_asked_for(command, words, capsys, tmp_path):
    with pytest.raises(ConfigError, match=words):
        told(command, capsys, tmp_path)


def test_a_part_of_stated_samples_stands_for_all():
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose("config", shlex.split(SMALL.replace("640", "100000")))
    data = stated(config.stated, batch_utterances=32)
    assert data.utterances == 200_000 and data.samples == 100_000 and len(data.part) == 8 * 16
