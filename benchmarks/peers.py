"""The published scripts at work on a CPU with current libraries: SPAG's play and training, SPIN's trainer, TRL's DPO.

Each is run from a checkout (or an installed TRL) and patched in memory; nothing of them stands here. What is patched:
devices and half precision, names that transformers has changed since, SPAG's prompt (parley's words, so that both read
the same ids), and, to count, losses and times. Every function runs in a process of its own, whose modules it changes.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from parley.games.taboo.layouts import rollout_text
from parley.games.taboo.prompts import Brief
from parley.models.tiny import END

SEATS = ("attacker", "defender")
History = list[str]  # utterances, attacker first


@dataclass(frozen=True)
class Row:
    """An utterance to train on, as SPAG writes them; of a pair `other` is what was generated in its place."""

    query: str
    target: str
    reward: float = 1.0
    other: str = ""


@dataclass(frozen=True)
class Done:
    """CPU-seconds of the work itself, without imports and loading, and what came of it: histories or losses."""

    seconds: float
    histories: tuple[tuple[str, ...], ...] = ()
    losses: tuple[float, ...] = ()


def prompt(seat: str, word: str, turns: int, history: Sequence[str]) -> str:
    """What both sides read before the next utterance of `seat`: SPAG's layout in the model's own chat template."""
    said = [(SEATS[at % 2], text.strip()) for at, text in enumerate(history)]
    text = rollout_text(Brief(seat, word if seat == "attacker" else None, turns, void=True), said)
    return f"<|user|>{text}{END}<|assistant|>"


# --- SPAG ---


def spag_play(
    checkout: str, model: str, words: Sequence[str], turns: int, batch: int, tokens: int, greedy: bool
) -> Done:
    """SPAG's own play: all games of a batch in step, each prompt read anew."""
    began: list[float] = []
    with _folder(checkout) as folder, _single_process():
        script = importlib.import_module("play_llm_game")
        script.convert_game_history_to_query = _query
        script.AutoModelForCausalLM = _Float32(script.AutoModelForCausalLM)
        script.tqdm = lambda *_, **__: _Clock(began)
        (folder / "words.txt").write_text("\n".join(words))
        arguments = dict(
            attacker_model_name_or_path=model, defender_model_name_or_path=model, data_path=f"{folder}/words.txt",
            output_dir=folder, per_device_eval_batch_size=batch, taboo_max_turns=turns, max_length=2048,
            max_new_tokens=tokens, task_type="testing" if greedy else "sampling", model_prefix="m", data_suffix="d",
            use_cpu=True,
        )  # fmt: skip
        torch.manual_seed(0)
        _main(script.main, arguments)
        seconds = time.process_time() - began[0]
        played = json.loads(next(folder.glob("*_results.json")).read_text())
    found = {game["target_word"]: tuple(each["content"].strip() for each in game["history"]) for game in played}
    return Done(seconds, tuple(found[word] for word in words))


def spag_train(checkout: str, model: str, rows: Sequence[Row], micro: int, steps: int, lr: float) -> Done:
    """SPAG's own OfflinePO: `steps` optimiser steps, each on all rows, `micro` of them at a time."""
    with _folder(checkout) as folder, _single_process():
        sys.modules["transformers"].Trainer = _Trainer
        trainers, script = (importlib.import_module(name) for name in ("trainers", "train"))
        counted = _counted(trainers.OfflineWeightedPolicyTrainer)
        data = [{**asdict(row), "query": row.query, "type": "sample", "weight": 1.0} for row in rows]
        (folder / "rows.json").write_text(json.dumps(data))
        arguments = dict(
            model_name_or_path=model, ref_model_name_or_path=model, train_data_path=f"{folder}/rows.json",
            train_method="OfflinePO", lm_kl_coeff=0.2, clip_range=0.2, max_length=2048, remove_unused_columns=False,
            **_training(folder, len(rows), micro, steps, lr),
        )  # fmt: skip
        _main(script.train, arguments)
    return counted.done(steps)


def _query(history: Sequence[Any], target_word: str, max_turns: int = 5) -> str:
    """parley's words in place of SPAG's, so that both sides read the same ids."""
    return prompt(SEATS[len(history) % 2], target_word, max_turns, [each["content"] for each in history])


# --- pairs ---


def spin_train(checkout: str, model: str, rows: Sequence[Row], micro: int, steps: int, lr: float) -> Done:
    """SPIN's own trainer on pairs, without the part of its package that reads hub data; TRL need not be installed."""
    _stand_ins()
    with _folder(f"{checkout}/spin") as folder:
        package = ModuleType("alignment")
        package.__path__ = [f"{checkout}/spin/alignment"]
        sys.modules["alignment"] = package
        sys.modules["transformers"].Trainer = _Trainer
        module = importlib.import_module("alignment.trainer")
        counted = _counted(module.SPINTrainer)
        module.SPINTrainer.get_batch_samples = _Trainer.get_batch_samples  # transformers has a method of that name now
        from transformers import TrainingArguments

        pairs = [{"prompt": row.query, "real": row.target, "generated": row.other} for row in rows]
        learner, tokenizer = _loaded(model)
        trainer = module.SPINTrainer(
            learner, deepcopy(learner), beta=0.1, tokenizer=tokenizer, train_dataset=pairs, max_length=2048,
            max_prompt_length=2000,
            args=TrainingArguments(
                remove_unused_columns=False, **_training(folder, len(rows), micro, steps, lr)
            ),
        )  # fmt: skip
        with redirect_stdout(io.StringIO()):
            trainer.train()
    return counted.done(steps)


def trl_train(model: str, rows: Sequence[Row], micro: int, steps: int, lr: float) -> Done:
    """The installed TRL's DPO trainer on the same pairs."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    counted = _counted(DPOTrainer)
    pairs = [{"prompt": row.query, "chosen": row.target, "rejected": row.other} for row in rows]
    learner, tokenizer = _loaded(model)
    with tempfile.TemporaryDirectory() as folder:
        settings = DPOConfig(beta=0.1, max_length=2048, **_training(Path(folder), len(rows), micro, steps, lr))
        trainer = DPOTrainer(
            learner, deepcopy(learner), args=settings, train_dataset=Dataset.from_list(pairs),
            processing_class=tokenizer,
        )  # fmt: skip
        with redirect_stdout(io.StringIO()):
            trainer.train()
    return counted.done(steps)


def _loaded(model: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), AutoTokenizer.from_pretrained(model)


def _stand_ins() -> None:
    """What SPIN takes from a TRL of its time."""
    names = {
        "trl.import_utils": {"is_peft_available": lambda: False, "is_wandb_available": lambda: False},
        "trl.models": {"PreTrainedModelWrapper": object, "create_reference_model": deepcopy},
        "trl.trainer.utils": {"disable_dropout_in_model": lambda model: None, "pad_to_length": _padded},
    }
    for name, parts in names.items():
        for parent in (name.rsplit(".", at)[0] for at in range(name.count(".") + 1)):
            sys.modules.setdefault(parent, ModuleType(parent))
        sys.modules[name] = module = ModuleType(name)
        vars(module).update(parts)
    datasets = ModuleType("datasets")
    datasets.Dataset = list  # type: ignore[attr-defined]
    sys.modules.setdefault("datasets", datasets)


def _padded(tensor: torch.Tensor, length: int, pad_value: float, dim: int = -1) -> torch.Tensor:
    shape = list(tensor.shape)
    shape[dim] = max(0, length - shape[dim])
    return torch.cat([tensor, tensor.new_full(shape, pad_value)], dim)


# --- patches ---


@contextmanager
def _folder(checkout: str) -> Iterator[Path]:
    """A scratch folder, with the checkout's modules in reach."""
    sys.path[:0] = [checkout, f"{checkout}/tools"]
    sys.modules.pop("train", None)  # a benchmark of parley's has that name, too
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextmanager
def _single_process() -> Iterator[None]:
    """A process group of one, and a CPU where the scripts ask for a GPU."""
    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment,return-value]
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _main(main: Callable[[], None], arguments: dict[str, Any]) -> None:
    """Calls a script's main with a command line; what it prints is lost."""
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    before, sys.argv = sys.argv, ["script", *words]
    try:
        with redirect_stdout(io.StringIO()):
            main()
    finally:
        sys.argv = before


def _training(folder: Path, rows: int, micro: int, steps: int, lr: float) -> dict[str, Any]:
    """Arguments of transformers' Trainer: each step is one global batch of all rows."""
    return dict(
        output_dir=str(folder), per_device_train_batch_size=micro, gradient_accumulation_steps=math.ceil(rows / micro),
        max_steps=steps, learning_rate=lr, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0,
        logging_strategy="no", save_strategy="no", report_to="none", use_cpu=True, seed=0, bf16=False,
        optim="adamw_torch", gradient_checkpointing=False,
    )  # fmt: skip


class _Clock:
    """In place of a progress bar, which is made when everything is loaded: the time at which the work begins."""

    def __init__(self, began: list[float]) -> None:
        began.append(time.process_time())

    def update(self, _: int) -> None: ...


class _Float32:
    """Loads in float32 what a script wants in half precision."""

    def __init__(self, auto: Any) -> None:
        self.auto = auto

    def from_pretrained(self, path: str, **given: Any) -> Any:
        del given
        return self.auto.from_pretrained(path, dtype=torch.float32)


def _trainer() -> Any:
    from transformers import Trainer

    class Older(Trainer):
        """transformers' Trainer as it was called then."""

        def __init__(self, tokenizer: Any = None, **given: Any) -> None:
            super().__init__(processing_class=tokenizer, **given)

    return Older


_Trainer = _trainer()


@dataclass
class _Counted:
    """Losses of micro-batches, and the CPU-seconds from the first to the end of the last step."""

    losses: list[float]
    began: float = 0.0
    ended: float = 0.0

    def done(self, steps: int) -> Done:
        each = len(self.losses) // steps
        means = [sum(self.losses[at : at + each]) / each for at in range(0, each * steps, each)]
        return Done(self.ended - self.began, losses=tuple(means))


def _counted(trainer: Any) -> _Counted:
    """Has `trainer` count, and takes the argument that transformers has added since."""
    counted, loss, train = _Counted([]), trainer.compute_loss, trainer._inner_training_loop

    def compute_loss(self: Any, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        counted.began = counted.began or time.process_time()
        found = loss(self, model, inputs, return_outputs)
        counted.losses.append(float((found[0] if return_outputs else found).detach()))
        return found

    def inner(self: Any, *given: Any, **named: Any) -> Any:
        found = train(self, *given, **named)
        counted.ended = time.process_time()
        return found

    trainer.compute_loss, trainer._inner_training_loop = compute_loss, inner
    trainer.model_accepts_loss_kwargs = False
    return counted


os.environ.setdefault("ACCELERATE_USE_CPU", "true")
