"""`experiment=deal_llm` from its command line, on a small model with a ChatML template: play, learn an adapter,
evaluate, merge."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from parley.cli.tasks.looking import merge
from parley.data.episode import streams
from parley.data.replay import replay
from parley.data.store import EpisodeStore
from parley.games.base import Message, Reply
from parley.games.deal import Deal
from parley.models import snapshot
from parley.models.load import load_model, load_policy, load_tokenizer
from parley.models.snapshot import Snapshot
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from commands import output

pytestmark = pytest.mark.slow
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SMALL = ["experiment=deal_llm", "hardware=cpu", "game.max_actions=4", "game.retries=1", "seed=1"]
WARM = [
    "task=imitate", "adapter=none", "imitate.matches=200", "imitate.players=[demo]",
    "imitate.learner.batch_utterances=40",
    "imitate.learner.optimizer={_target_: parley.learners.optim.Muon, lr: 0.02, adamw_lr: 1e-2}",
]  # fmt: skip
SHORT = [
    "adapter.r=4", "iterations=1", "play.scenarios=4", "play.group=2", "play.sampling.temperature=0.5",
    "eval.scenarios=2",
    "eval.greedy=2", "eval.validation=2", "eval.opponents=[]", "eval.transcripts=1", "objective.credit.keep=all",
]  # fmt: skip


def chats() -> list[tuple[Message, ...]]:
    """What the seats of scripted matches see at their last turn, in full prompts."""
    game, draw, seen = Deal(prompt="full"), Random(0), []
    for scenario in game.scenarios("train")[:60]:
        match = game.match(scenario, 0)
        requests = match.start()
        while requests:
            seen += [request.messages for request in requests]
            requests = match.step(
                [Reply(request.id, game.scripts()["demo"](request, draw, draw)) for request in requests]
            )
    return seen


def model_folder(folder: Path) -> Path:
    """A small Qwen2 without any training, as its makers would publish it: safetensors, byte-level BPE, ChatML."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, show_progress=False, special_tokens=special, initial_alphabet=alphabet
    )
    core.train_from_iterator((message.content for chat in chats() for message in chat), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024, tie_word_embeddings=True, eos_token_id=2, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment on a model that has imitated scripts a little, so that its replies are legal."""
    place = tmp_path_factory.mktemp("llm")
    model_folder(place / "untrained")
    output(*SMALL, *WARM, "model.path=untrained", "hydra.run.dir=warm", folder=place)
    (place / "warm/iter_000/start/snapshot").rename(place / "my-instruct-model")
    output(*SMALL, *SHORT, "model.path=my-instruct-model", "hydra.run.dir=run", folder=place)
    return place / "run"


def outputs(run: Path, stage: str) -> Any:
    return json.loads((run / stage / "stage.json").read_text())["outputs"]


def test_it_plays_and_is_measured(run: Path) -> None:
    rows = json.loads((run / "summary.json").read_text())["iterations"]
    start, last = (row["policies"]["learner"] for row in rows)
    assert start["sampled"]["joint_score"]["n"] == 2 and last["versus"]["start"]["score"]["n"] == 4
    assert last["play"]["matches"] == 8 and last["play"]["kept"] >= 8  # of 16 seats: what it says is legal
    assert last["learn"]["loss"] > 0 and last["learn"]["grad_norm"] > 0
    assert not (run / "iter_000/start").exists()  # nothing was imitated


def test_the_adapter_is_trained_on_the_ids_that_were_sampled(run: Path) -> None:
    """Each seat's stream is its chat in ChatML, the sampled ids where its own replies stand."""
    model = run.parent / "my-instruct-model"
    tokenizer = load_tokenizer(model)
    episodes = list(EpisodeStore(run / "iter_001/play", shard=None).read())
    assert len(episodes) == 8 and not any(
        turn.call and turn.call.fork for episode in episodes for turn in episode.turns
    )
    for episode in episodes:
        views = replay(Deal(prompt="full", max_actions=4, retries=1), episode).views
        for seat, view in views.items():
            [stream] = streams(episode, seat)
            text = tokenizer.apply_chat_template(
                [{"role": each.role, "content": each.content} for each in view], tokenize=False
            )
            assert text.startswith(tokenizer.decode(stream.token_ids))


def test_only_the_adapter_changed(run: Path) -> None:
    base, fresh = outputs(run, "iter_000/base"), outputs(run, "iter_000/adapter/learner")
    learned = outputs(run, "iter_001/learn")["learner"]["snapshot"]
    model = str(run.parent / "my-instruct-model")
    assert base["path"] == fresh["base"] == learned["base"] == model
    assert snapshot.of(model, "my-instruct-model").version == base["version"]
    before, after = (load_file(run / each["path"] / snapshot.ADAPTER) for each in (fresh, learned))
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert before.keys() == after.keys() and {name for name in after if ".lora_B." in name} <= changed


def test_the_merged_model_is_the_adapter_on_its_base(run: Path) -> None:
    merge(OmegaConf.create(), run.parent / "merged", str(run))  # what task=merge calls
    kept = json.loads((run / "summary.json").read_text())["best"]
    found = outputs(run, "iter_001/learn")["learner"]["snapshot"] if kept else outputs(run, "iter_000/adapter/learner")
    adapted = load_policy(Snapshot(found["version"], str(run / found["path"]), found["base"]))
    merged = load_model(run.parent / "merged/model")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert (merged(ids).logits - adapted(input_ids=ids).logits).abs().max() < 1e-4
    assert load_tokenizer(run.parent / "merged/model").chat_template == CHATML


# --- what is handed on: the path of an engineer ---------------------------------------------------------------------


def test_the_hours_of_the_run_are_planned(run: Path) -> None:
    words = ["task=plan", "iterations=4", "objective.credit.keep=all", f"run={run}", "task.probe=true"]
    said = " ".join(output(*words, folder=run.parent).split())
    assert "Tokens of play, an iteration" in said and "written" in said and "measured here" in said
    assert re.search(r"all 4 iterations [\d.]+ (h|min) on 1 device, which are", said)


def test_an_adapter_is_opened_by_peft_alone_and_has_a_card(run: Path) -> None:
    adapter = Snapshot(**outputs(run, "iter_001/learn")["learner"]["snapshot"])
    folder = run / adapter.path
    alone = AutoPeftModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[5, 6, 7, 8]])
    ours = load_policy(Snapshot(adapter.version, str(folder), str(run.parent / "my-instruct-model")))
    assert (alone(ids).logits - ours(ids).logits).abs().max() < 1e-5
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "peft" and "base: `my-instruct-model`" in card and str(run.parent) not in card
    for told in ("game: `Deal", "FilteredBC", "experiment: `deal_llm`", "| sampled | `joint_score` |", "revision"):
        assert told in card, told
    assert not {"is_local", "local_files_only"} & json.loads((folder / "tokenizer_config.json").read_text()).keys()
    assert snapshot.of(folder, "iter_001", str(run.parent / "my-instruct-model")).version == adapter.version


def test_a_merged_model_is_opened_by_plain_transformers_and_has_a_card(run: Path) -> None:
    merge(OmegaConf.create(), run.parent / "shared", str(run))
    model = AutoModelForCausalLM.from_pretrained(run.parent / "shared/model")
    tokenizer = AutoTokenizer.from_pretrained(run.parent / "shared/model")
    assert tokenizer.chat_template == CHATML and model.num_parameters() > 0
    card = (run.parent / "shared/model/README.md").read_text()
    assert "library_name: transformers" in card and "base: `my-instruct-model`" in card and "| sampled |" in card
