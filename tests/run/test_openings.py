"""Prompts that a file gives are tried on every template before the first request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from parley.games.base import Message
from parley.models.tiny import Tiny
from parley.report.progress import Progress, terminal
from parley.run.build import build
from parley.run.run import Run
from parley.run.start import Start
from parley.system.files import InputError

STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('in turns') }}"
    "{% endif %}{{ m.content }}{% endfor %}"
)


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """A model whose template takes any chat, and one whose template wants user and assistant in turns."""
    folders = tmp_path / "any", tmp_path / "strict"
    for folder in folders:
        Tiny(width=32, heads=2, layers=1).create(folder, [(Message("user", "a b"),)] * 9, 0)
    path = next(iter(folders[1].rglob("tokenizer_config.json")))
    (path.parent / "chat_template.jinja").write_text(STRICT)
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": STRICT}))
    return folders[0], folders[1]


def start(out: Path, model: Path, second: list[str], *words: str) -> Start:
    """The start of a run on twelve chats, of which the second one has these roles."""
    path = out.with_suffix(".jsonl")
    roles = [["user"], second, *[["user", "assistant", "user"]] * 10]
    chats = [[{"role": role, "content": f"a b {at}"} for role in each] for at, each in enumerate(roles)]
    reply = {"role": "assistant", "content": "b"}
    path.write_text("".join(json.dumps({"messages": [*chat, reply]}) + "\n" for chat in chats))
    game = ["game=prompts", f"game.train={path}", "metric=sampled.score", "eval.opponents=[]"]
    learner = ["model=hf", f"model.path={model}", "imitate.matches=0", "objective.credit.keep=all"]
    with initialize_config_module("parley.conf", version_base="1.3"):
        chosen: Any = compose("config", [*game, *learner, *words])
    return Start(Run(build(chosen, out), out, Progress(terminal(quiet=True), log=out.with_suffix(".log"))))


def test_B02_every_template_is_tried_on_the_prompts_of_a_file(tmp_path: Path, models: tuple[Path, Path]) -> None:
    free, strict = models
    seated = f"opponents.old.path={strict}"
    assert start(tmp_path / "good", free, ["user"], seated)()
    bad = ["user", "user"]
    assert start(tmp_path / "alone", free, bad)()
    with pytest.raises(InputError, match=r"^opponents\.old: .*\.jsonl, line 2: .*in turns"):
        start(tmp_path / "seated", free, bad, seated)()
    with pytest.raises(InputError, match=r"^[^:]*\.jsonl, line 2: .*in turns"):
        start(tmp_path / "own", strict, bad)()


def test_A6_A18_lines_at_the_start_say_what_the_template_does_and_what_the_adapter_changes(
    tmp_path: Path, models: tuple[Path, Path]
) -> None:
    start(tmp_path / "out", models[0], ["user"], "adapter=lora", "adapter.r=2")()
    told = (tmp_path / "out.log").read_text()
    assert "chat template: system messages stay; no thoughts; token streams only grow" in told
    assert "the adapter changes 7 layers" in told
