"""A person at the terminal, as a player."""

from __future__ import annotations

import os
import select
import sys
from collections import deque
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from ..data.episode import Episode, Turn
from ..games.base import Guide, Result, Scenario
from ..system.printing import printable
from .player import Completion, Prompt


class HumanPlayer:
    """A person at a terminal: sees what is new since the last turn, and answers with one line.

    With a game's `guide` the rules, legal replies and reasons of refusals are shown in its words, instead of the system
    prompt and the retry's message; without one the messages are shown as a model gets them. End of input or Ctrl-C
    during this player's turn loses the player: its open matches fail (and stay owed).
    """

    busy = False

    def __init__(
        self,
        name: str = "human",
        source: TextIO | None = None,
        console: Console | None = None,
        guide: Guide | None = None,
    ) -> None:
        self.name, self.guide = name, guide
        self._source, self._console = source or sys.stdin, console or Console()
        self._waiting: deque[Prompt] = deque()
        self._shown: dict[str, int] = {}  # stream -> messages already on the screen
        self._asked = ""  # id of the prompt on the screen
        self._typed = b""
        self._lost = ""

    def submit(self, prompts: Sequence[Prompt]) -> None:
        self._waiting.extend(prompts)

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        """Shows the first open prompt, and waits at most `wait_s` seconds for a line."""
        try:
            if self._waiting and not self._lost:
                self._show(self._waiting[0])
                line = self._line(wait_s)
                if line is not None:
                    return [Completion(self._waiting.popleft().id, line, policy=self.name)]
        except KeyboardInterrupt:
            self._lost = "the person left (Ctrl-C)"
        if not self._lost:
            return []
        gone = [Completion(prompt.id, self._lost, "error", policy=self.name) for prompt in self._waiting]
        self._waiting.clear()
        return gone

    def cancel(self, ids: Sequence[str]) -> None:
        self._waiting = deque(prompt for prompt in self._waiting if prompt.id not in set(ids))

    def forget(self, streams: Sequence[str]) -> None:
        for stream in streams:
            self._shown.pop(stream, None)

    def recall(self, prompt: Prompt, turn: Turn) -> str:
        return self.name

    def close(self) -> None:
        self._waiting.clear()

    def ended(self, episode: Episode) -> None:
        """Prints how a match of this person ended."""
        for seat, name in episode.players.items():
            if name == self.name and seat in episode.result.returns:
                told = _ending(episode, seat) if self.guide is None else self.guide.ending(*_of(episode), seat)
                self._console.rule()
                self._console.print(Text(printable(told)))

    def _show(self, prompt: Prompt) -> None:
        if self._asked == prompt.id:
            return
        self._asked = prompt.id
        guide, seen = self.guide, prompt.observation
        if prompt.stream not in self._shown:
            self._console.rule(Text(printable(f"you are {prompt.seat}")))
            if guide is not None and seen is not None:
                self._print(guide.rules(prompt.seat, seen))
        refused = guide is not None and seen is not None and prompt.kind == "retry" and bool(seen.get("error"))
        for message in prompt.messages[self._shown.get(prompt.stream, 0) :]:
            own = message.request is not None  # the person's own replies are already on the screen
            if not own and not refused and (guide is None or seen is None or message.role != "system"):
                self._print(message.content)
        self._shown[prompt.stream] = len(prompt.messages)
        if guide is not None and seen is not None:
            if refused:
                self._print(guide.refused(prompt.seat, seen))
            self._print(guide.now(prompt.seat, seen))
        elif isinstance(legal := (seen or {}).get("legal"), list):
            self._print(f"Write one of: {', '.join(map(str, legal))}")
        self._console.print(Text(f"{prompt.seat}> "), end="")

    def _print(self, text: str) -> None:
        self._console.print(Text(printable(text)))

    def _line(self, wait_s: float) -> str | None:
        """The next complete line, None if there is none yet."""
        handle = self._source.fileno()  # bypasses Python's buffer, whose lines select would not see
        while b"\n" not in self._typed:
            if not select.select([handle], [], [], wait_s)[0]:
                return None
            block = os.read(handle, 1 << 16)
            if not block:
                self._lost = "the person left (end of input)"
                return None
            self._typed += block
        line, _, self._typed = self._typed.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")


def _ending(episode: Episode, seat: str) -> str:
    """The text of a match's end for a seat, in a game without a guide."""
    result = episode.result
    others = ", ".join(f"{role} {value:g}" for role, value in result.returns.items() if role != seat)
    told = result.outcome_by_seat.get(seat, result.outcome)
    return f"{told}: you {result.returns[seat]:g}{f', {others}' if others else ''}"


def _of(episode: Episode) -> tuple[Scenario, Result]:
    return episode.scenario, episode.result
