"""A chair: the player for a person. The arena submits and polls in its thread; pages show and answer in the event loop.

While a match is open, a chair shows its seat's view and nothing else of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Condition
from typing import Any

from ..data.episode import Turn
from ..games.base import Json, Message
from ..play.player import Completion, Prompt
from ..system.printing import printable


class Chair:
    """The player for one person, for all their matches one after the other.

    name        the player's name in records
    patience_s  seconds to answer a question; after that the person counts as gone
    changed     called, in any thread, when there is something new to show
    """

    busy = False

    def __init__(self, name: str, patience_s: float, changed: Callable[[], None]) -> None:
        self.name, self.patience_s, self.changed = name, patience_s, changed
        self._lock = Condition()
        self._asked: dict[str, tuple[Prompt, float]] = {}  # prompt id -> (prompt, time of asking)
        self._ready: list[Completion] = []
        self._shown: Prompt | None = None  # the last prompt, with the replies that followed it
        self._said: list[Message] = []
        self._left = ("", "")  # (match the person gave up, reason)
        self._writing: Mapping[str, int] = {}

    def submit(self, prompts: Sequence[Prompt]) -> None:
        with self._lock:
            for prompt in prompts:
                self._asked[prompt.id] = prompt, time.monotonic()
                self._shown, self._said = prompt, []
            match, why = self._left
            if match and any(prompt.id.startswith(f"{match}/") for prompt in prompts):
                self._give_up(why)
        self.changed()

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        """Returns the answers so far; waits up to `wait_s` seconds for one."""
        with self._lock:
            if not self._ready and wait_s:
                self._lock.wait(wait_s)
            if any(time.monotonic() - since > self.patience_s for _, since in self._asked.values()):
                self._give_up(f"the person did not answer within {self.patience_s:g} s")
            ready, self._ready = self._ready, []
        return ready

    def cancel(self, ids: Sequence[str]) -> None:
        gone = set(ids)
        with self._lock:
            for each in ids:
                self._asked.pop(each, None)
            self._ready = [done for done in self._ready if done.id not in gone]
        self.changed()

    def forget(self, streams: Sequence[str]) -> None:
        """Clears the view of a match that is over."""
        with self._lock:
            self._shown, self._said = None, []
        self.changed()

    def recall(self, prompt: Prompt, turn: Turn) -> str:
        with self._lock:
            self._shown, self._said = prompt, [Message("assistant", turn.text, turn.request)]
        return self.name

    def close(self) -> None:
        with self._lock:
            self._asked.clear()
            self._ready.clear()

    # --- what pages call --------------------------------------------------------------------------------------------

    def answer(self, question: str, text: str) -> bool:
        """Answers a question; False if it is not open (any more)."""
        with self._lock:
            if (asked := self._asked.pop(question, None)) is None:
                return False
            prompt, since = asked
            seconds = round(time.monotonic() - since, 3)
            self._ready.append(Completion(question, text, policy=self.name, seconds=seconds))
            self._said.append(Message("assistant", text, prompt.request))
            self._lock.notify()
        self.changed()
        return True

    def leave(self, match: str, reason: str) -> None:
        """Gives up `match`: now, or at the seat's next question."""
        with self._lock:
            self._left = match, reason
            if any(each.startswith(f"{match}/") for each in self._asked):
                self._give_up(reason)

    def tell(self, writing: Mapping[str, int]) -> None:
        """Stores which other seats are writing, and their approximate numbers of tokens."""
        if writing != self._writing:
            self._writing = writing
            self.changed()

    @property
    def writing(self) -> Mapping[str, int]:
        """The last argument of `tell` while this seat waits; {} while it has to move itself, so that the length of a
        simultaneous move does not leak."""
        return {} if self._asked else self._writing

    def view(self) -> dict[str, Json]:
        """The seat's view for the page: the messages so far, and the open question if there is one."""
        with self._lock:
            prompt, said = self._shown, list(self._said)
            asked = next(iter(self._asked.values()), None)
        if asked is not None:
            prompt = asked[0]
        if prompt is None:
            return {"phase": "wait", "messages": []}
        seen: dict[str, Any] = {
            "phase": "wait" if asked is None else "ask",
            "seat": prompt.seat,
            "messages": [told(message) for message in (*prompt.messages, *said)],
            "seen": dict(prompt.observation or {}),
        }
        if asked is not None:
            left = self.patience_s - (time.monotonic() - asked[1])
            seen |= {"question": prompt.id, "kind": prompt.kind, "left_s": max(0, round(left))}
        return seen

    def _give_up(self, reason: str) -> None:
        """Ends every open question with the reason, as the player is lost. The lock is held."""
        self._ready += [Completion(each, reason, "error", policy=self.name) for each in self._asked]
        self._asked.clear()
        self._lock.notify()


def told(message: Message) -> dict[str, Json]:
    """A message of a view for the page: the speaker, and the text without control characters."""
    who = {"system": "rules", "user": "told", "assistant": "you"}[message.role]
    return {"who": who, "text": printable(message.content)}
