"""Training rows of SPIN's published code (uclaml/SPIN): {"real": [user, assistant], "generated": [user, assistant]}.

Both chats begin with the same prompt. In the data of iteration 0 the generated text may be empty, because nothing was
sampled yet. The published files are parquet; here they are JSON lines of the same rows. `game=prompts` reads the real
side as scenarios.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...games.base import Json, Message
from ...games.chats import read_messages, write_messages
from ...system.files import read_jsonl
from ..episode import Episode
from .messages import write_lines


@dataclass(frozen=True, slots=True)
class Row:
    """A real chat, and a policy's reply to the same prompt."""

    real: tuple[Message, ...]
    generated: tuple[Message, ...]

    def __post_init__(self) -> None:
        if self.real[:-1] != self.generated[:-1] or {self.real[-1].role, self.generated[-1].role} != {"assistant"}:
            raise ValueError(
                '"real" and "generated" must begin with the same prompt, each followed by its own assistant message'
            )


def read(path: Path) -> Iterator[Row]:
    """The rows of a file; InputError names an invalid line."""
    return read_jsonl(path, _row)


def write(path: Path, rows: Iterable[Row]) -> int:
    """Writes one line per row, replacing `path`; returns the number of rows."""
    return write_lines(path, map(line, rows))


def line(row: Row) -> dict[str, Json]:
    """One line of a file."""
    return {"real": write_messages(row.real), "generated": write_messages(row.generated)}


def rows(episodes: Iterable[Episode]) -> Iterator[Row]:
    """A row for each reply in matches whose scenario holds the prompt and the real reply (`prompts`, `tales`)."""
    for episode in episodes:
        data = episode.scenario.data
        if isinstance(data.get("reply"), str) and isinstance(data.get("messages"), list) and episode.turns:
            prompt = read_messages(data["messages"])
            real, said = (Message("assistant", text) for text in (data["reply"], episode.turns[-1].text))
            yield Row((*prompt, real), (*prompt, said))


def _row(data: Json) -> Row:
    if not isinstance(data, dict):
        raise ValueError(f'expected an object with "real" and "generated", got {type(data).__name__}')
    return Row(read_messages(data["real"]), read_messages(data["generated"]))
