"""A readable transcript of one match: who sat where, what each seat saw and said, how it ended."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..data.episode import Episode
from ..games.base import Json, Message
from ..system.printing import printable
from .estimates import values
from .pages import render
from .run import number

Views = Mapping[str, Sequence[Message]]  # seat -> its private view, from a replay

_LABELS: Mapping[str, tuple[str, ...]] = {"assistant": ("Thought", "Action"), "user": ("Observation",)}


def notes(episode: Episode) -> dict[str, str]:
    """Request -> remarks on its reply: the request's kind, a finish other than stop, "refused", the game's marks."""
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
    """Request -> the player's thought before its reply, which the game never sees."""
    return {turn.request: printable(turn.thought) for turn in episode.turns if turn.thought}


def steps(message: Message) -> list[tuple[str, str]]:
    """Splits a message into (kind, text): an agent's lines labelled thought or action, observations sent to it, and ""
    for everything else. An "observation" that the agent writes itself is not shown as one."""
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
    """Views without a replay: each seat's own replies only."""
    return {
        seat: tuple(Message("assistant", turn.text, turn.request) for turn in episode.turns if turn.seat == seat)
        for seat in episode.players
    }


def facts(episode: Episode, seat: str) -> str:
    """The player in `seat` and the seat's payoff, as text."""
    player, result = episode.players[seat], episode.result
    version = episode.policies.get(seat)
    sat = f"{player} ({version})" if version and version != player else player
    outcome = result.outcome_by_seat.get(seat)
    return ", ".join([sat, f"payoff {number(result.returns.get(seat))}", *([outcome] if outcome else [])])


def ending(episode: Episode) -> str:
    """The outcome and the seats to blame, as text."""
    blame = ", ".join(episode.result.blame)
    return episode.result.outcome + (f" (blamed: {blame})" if blame else "")


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a match, as a page shows it.

    lane      index of its seat
    role      as in the chat: system, user (sent to the seat), assistant (the seat's reply)
    echo      it repeats another seat's latest reply
    """

    seat: str
    lane: int
    role: str
    parts: Sequence[tuple[str, str]]  # (kind, text), see `steps`
    thought: str
    remark: str
    refused: bool
    echo: bool


def timeline(episode: Episode, views: Views) -> tuple[dict[str, list[Said]], list[Said]]:
    """(seat -> the messages before its first reply, all later messages in order of play). A seat's incoming messages
    come right before its next reply."""
    remarks, silent = notes(episode), thoughts(episode)
    refused = {request for seat in episode.players for request in episode.refused(seat)}
    order = {turn.request: at for at, turn in enumerate(episode.turns)}
    openings: dict[str, list[Said]] = {}
    placed: list[tuple[int, Said]] = []
    for lane, (seat, view) in enumerate(views.items()):
        first = min((order[each.request] for each in view if each.request in order), default=len(order))
        openings[seat] = []
        for at, message in _located(view, order):
            request = message.request or ""
            echo = message.role == "user" and _echoed(episode, seat, message.content, at)
            said = Said(
                seat,
                lane,
                message.role,
                steps(message),
                silent.get(request, ""),
                remarks.get(request, ""),
                request in refused,
                echo,
            )
            if at == first and request not in order and not echo:
                openings[seat].append(said)
            else:
                placed.append((at, said))
    return openings, [said for _, said in sorted(placed, key=lambda each: each[0])]


def _located(view: Sequence[Message], order: Mapping[str, int]) -> list[tuple[int, Message]]:
    """(turn, message): a reply belongs to its own turn, any other message to the seat's next turn."""
    found, at = [], len(order)
    for message in reversed(view):
        at = order.get(message.request or "", at)
        found.append((at, message))
    return found[::-1]


def _echoed(episode: Episode, seat: str, content: str, at: int) -> bool:
    """Whether `content` repeats or contains another seat's reply from shortly before turn `at`."""
    told = content.strip()
    said = [
        turn.text.strip() for turn in episode.turns[max(at - 2 * len(episode.players), 0) : at] if turn.seat != seat
    ]
    return bool(told) and any(text and (text in told or told in text) for text in said)


OWN = ("--config-dir", "-cd")  # flags whose value is the folder of the user's YAML
LONG = 120  # messages; the middle of a longer match is left out on a page
SHORT = 600  # characters; a longer opening prompt is folded


def markup(episode: Episode, views: Views, run: Path | None = None, title: str = "") -> Markup:
    """The match as HTML (an `article`) for a page with the style `page.css`: players, opening prompts, every reply in
    order of play, metrics, and the commands that show and replay it (`run` is its directory). The middle of a long
    match is left out."""
    openings, said = timeline(episode, views)
    lengths = {seat: sum(len(text) for each in told for _, text in each.parts) for seat, told in openings.items()}
    end = said[-LONG // 3 :] if len(said) > LONG else []
    return render(
        "match.html",
        id=episode.id,
        title=title or f"{episode.scenario.id}: {ending(episode)}",
        scenario=episode.scenario.id,
        outcome=ending(episode),
        seats=[(seat, facts(episode, seat), openings[seat], lengths[seat] > SHORT) for seat in views],
        said=said[: LONG - len(end)] if end else said,
        left_out=len(said) - LONG if end else 0,
        end=end,
        numbers=[(name, number(value)) for name, value in values(episode).items() if value],
        commands=[] if run is None else [command(each, run, episode.id) for each in ("show", "replay")],
    )


def command(task: str, run: Path, match: str) -> str:
    """The command that shows or replays a match of `run`, quoted for a shell."""
    return shlex.join([*started(), f"task={task}", f"run={run}", f"match={match}"])


def started() -> list[str]:
    """The first words of a further command: how this process was started, with the user's own folders of modules and
    YAML, without which a game of one's own is not found again."""
    words = ["python", "-m", "parley"] if Path(sys.argv[0]).name == "__main__.py" else ["parley"]
    for word, value in pairwise([*sys.argv[1:], ""]):
        if word in OWN:
            words += [word, value]
        elif word.startswith(("--config-dir=", "hydra.searchpath=")):
            words.append(word)
    return words


def text(episode: Episode, views: Views, definitions: Mapping[str, str] | None = None) -> RenderableType:
    """The match for a terminal: private views side by side, then every metric with its definition."""
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
    """The private views one after the other as plain text, each reply preceded by its thought."""
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
