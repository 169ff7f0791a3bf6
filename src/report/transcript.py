"""One match as a person reads it: who sat where, what each seat saw and said, how it ended."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..data.episode import Episode
from ..games.base import Json, Message
from .estimates import values
from .run import number

Views = Mapping[str, Sequence[Message]]  # seat -> its private view, as a replay gives it

# What a terminal or a page would obey instead of print: control characters (escape sequences begin with one), lone
# surrogates, and the marks that turn the direction of writing around.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")

_LABELS: Mapping[str, tuple[str, ...]] = {"assistant": ("Thought", "Action"), "user": ("Observation",)}


def printable(text: str) -> str:
    """Model text with everything that is not text, line breaks or tabs replaced by �."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def notes(episode: Episode) -> dict[str, str]:
    """Request -> what is to be said of its reply: kind, an ending other than a stop, refused, the game's marks."""
    told: dict[str, str] = {}
    refused = {request for seat in episode.players for request in episode.refused(seat)}
    for turn in episode.turns:
        parts = [turn.kind] if turn.kind != "act" else []
        parts += [f"ended by {turn.finish}"] if turn.finish != "stop" else []
        parts += ["refused"] if turn.request in refused else []
        parts += [f"{key} {_mark(value)}" for key, value in episode.result.marks.get(turn.request, {}).items()]
        told[turn.request] = printable(", ".join(parts))
    return told


def thoughts(episode: Episode) -> dict[str, str]:
    """Request -> what its player said to itself before the reply, which no game saw."""
    return {turn.request: printable(turn.thought) for turn in episode.turns if turn.thought}


def steps(message: Message) -> list[tuple[str, str]]:
    """A message in parts, (kind, text): the lines that an agent labels as thought and action, the observations that it
    is told, and "" for everything else. Nobody's text is shown as what it is not: an agent that writes an observation
    itself has none."""
    found: list[tuple[str, str]] = []
    for line in message.content.splitlines(keepends=True):
        label = line.partition(":")[0]
        begins = label in _LABELS.get(message.role, ())
        before = found[-1][0] if found and message.role == "assistant" else ""  # an observation has one line
        kind = label.lower() if begins else before
        if found and found[-1][0] == kind and not begins:
            found[-1] = kind, found[-1][1] + line
        else:
            found.append((kind, line))
    return found


def spoken(episode: Episode) -> Views:
    """The views without a replay: each seat's own replies only."""
    return {
        seat: tuple(Message("assistant", turn.text, turn.request) for turn in episode.turns if turn.seat == seat)
        for seat in episode.players
    }


def facts(episode: Episode, seat: str) -> str:
    """Who sat in `seat`, and what it got."""
    player, result = episode.players[seat], episode.result
    version = episode.policies.get(seat)
    sat = f"{player} ({version})" if version and version != player else player
    outcome = result.outcome_by_seat.get(seat)
    return ", ".join([sat, f"payoff {number(result.returns.get(seat))}", *([outcome] if outcome else [])])


def ending(episode: Episode) -> str:
    """The outcome, and whose fault it was."""
    blame = ", ".join(episode.result.blame)
    return episode.result.outcome + (f" (blamed: {blame})" if blame else "")


def text(episode: Episode, views: Views, definitions: Mapping[str, str] | None = None) -> RenderableType:
    """The match for a terminal: the private views side by side, then every metric with its definition."""
    remarks = notes(episode)
    sides = Table.grid(expand=True, padding=(0, 1))
    for _ in views:
        sides.add_column(ratio=1)
    panels = [
        Panel(
            _view(view, remarks, thoughts(episode)),
            title=Text(printable(seat), "bold"),
            subtitle=Text(printable(facts(episode, seat)), "dim"),
        )
        for seat, view in views.items()
    ]
    sides.add_row(*panels)
    head = Text(
        printable(f"match {episode.id}: {episode.game}, scenario {episode.scenario.id}, seed {episode.seed}"), "bold"
    )
    return Group(
        head, sides, Text(printable(f"outcome: {ending(episode)}"), "bold"), _metrics(episode, definitions or {})
    )


def plain(episode: Episode, views: Views) -> str:
    """The private views one after the other, as plain text; thoughts stand before their replies."""
    remarks, silent = notes(episode), thoughts(episode)
    parts = []
    for seat, view in views.items():
        lines = [f"{seat}: {facts(episode, seat)}"]
        for message in view:
            remark = remarks.get(message.request or "", "")
            if thought := silent.get(message.request or ""):
                lines.append(f"[thought] {thought}")
            lines.append(f"[{message.role}{f': {remark}' if remark else ''}] {message.content}")
        parts.append("\n".join(lines))
    return printable("\n\n".join(parts))


_STEPS: Mapping[str, str] = {"thought": "italic", "action": "bold cyan", "observation": "green"}


def _view(view: Sequence[Message], remarks: Mapping[str, str], silent: Mapping[str, str]) -> RenderableType:
    styles = {"system": "dim", "user": "", "assistant": "cyan"}
    parts: list[Text] = []
    for message in view:
        remark, style = remarks.get(message.request or "", ""), styles[message.role]
        if thought := silent.get(message.request or ""):
            parts.append(Text("thought", "bold dim"))
            parts.append(Text(thought + "\n", "dim italic"))
        parts.append(Text(f"{message.role}{f' [{remark}]' if remark else ''}", "bold dim"))
        parts.append(
            Text.assemble(*((printable(text), _STEPS.get(kind, style)) for kind, text in steps(message)), "\n")
        )
    return Group(*parts)


def _metrics(episode: Episode, definitions: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in values(episode).items():
        raw = episode.result.metrics[name]
        each = " ".join(f"{seat} {number(own)}" for seat, own in raw.items()) if isinstance(raw, Mapping) else ""
        table.add_row(Text(name), Text(number(value)), Text(printable(each)), Text(definitions.get(name, ""), "dim"))
    return table


def _mark(value: Json) -> str:
    return number(value) if value is None or isinstance(value, (str, int, float)) else str(value)
