"""Thoughts (reasoning) and speech of a reply: the marks around thoughts, and the use of the chat template."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..system.files import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AUTO = "auto"
OURS = {
    "messages",
    "add_generation_prompt",
    "strftime_now",
    "tools",
    "documents",
}  # arguments reserved for the renderer
KEY, CONFIG = "parley", "tokenizer_config.json"
KNOWN = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""Marks of model families, used if the chat template contains the closing one."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The text before a thought, and between thought and speech. Special tokens are matched by their text."""

    open: str
    close: str

    def parts(self, text: str, opened: bool = False) -> tuple[str, str] | None:
        """(thought, speech) of a whole reply; None if it holds no thought.

        `opened`: the prompt ended with the opening mark. The speech is the text after the last closing mark, so after
        an unclosed thought there is none.
        """
        thought, closed, speech = text.rpartition(self.close)
        if not closed and opened:
            return text, ""
        speech, begun, late = speech.partition(self.open)
        if not closed and not begun:
            return None
        return (thought + late).replace(self.open, "").replace(self.close, "").strip(), speech.lstrip()


@dataclass(frozen=True, slots=True)
class Conduct:
    """The use of a model's chat template. Stored in the snapshot's tokenizer_config.json, so its version covers it.

    template       arguments, such as enable_thinking
    thought        the marks [open, close] around a thought; AUTO: those in the template; None: no thoughts
    keep_thoughts  whether thoughts of earlier turns are passed to the template, which may keep or drop them
    """

    template: Mapping[str, Any] = field(default_factory=dict)
    thought: Sequence[str] | str | None = AUTO
    keep_thoughts: bool = True

    def __post_init__(self) -> None:
        pair = self.thought not in (None, AUTO)
        if pair and (isinstance(self.thought, str) or [*map(type, self.thought or ())] != [str, str]):
            raise InputError(f"thought is {self.thought!r}: give [open, close], {AUTO}, or null for no thoughts")
        if pair and not all(self.thought or ()):
            raise InputError("thought has an empty mark: give the text before a thought and the text behind it")
        if not isinstance(self.template, Mapping) or OURS & self.template.keys():
            raise InputError(
                f"template is {self.template!r}: give arguments by name, none of {', '.join(sorted(OURS))}"
            )

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerBase) -> Conduct:
        """The conduct stored with the tokenizer, or the defaults."""
        told = tokenizer.init_kwargs.get(KEY) or {}
        if not isinstance(told, Mapping) or told.keys() - {each.name for each in fields(Conduct)}:
            raise InputError(f"{CONFIG} of the model says {KEY}={told!r}, which this parley does not understand")
        return Conduct(**told)

    def marks(self, source: str) -> Marks | None:
        """The marks for a chat template with this source text."""
        if self.thought != AUTO:
            return Marks(*self.thought) if self.thought else None
        return next((Marks(*pair) for pair in KNOWN if pair[1] in source), None)

    def laid(self, model: Path, folder: Path) -> Path:
        """The model folder `model` with this conduct: `folder`, with links to all of its files except
        tokenizer_config.json."""
        folder.mkdir(parents=True, exist_ok=True)
        told = json.loads((model / CONFIG).read_text()) if (model / CONFIG).is_file() else {}
        for path in model.iterdir():
            if path.name != CONFIG and not (folder / path.name).exists():
                os.symlink(path, folder / path.name)
        (folder / CONFIG).write_text(json.dumps({**told, KEY: asdict(self)}, indent=2))
        return folder
