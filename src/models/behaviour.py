"""Properties of a model's chat template, found by rendering small chats with it."""

from __future__ import annotations

from dataclasses import dataclass

from ..games.base import Message
from ..system.files import InputError
from .renderer import Renderer


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Properties of a template as text ("" for none).

    folds     which system messages are folded into a user message
    thoughts  treatment of thoughts in later turns
    forks     why the token stream of a reply without thoughts forks at each turn
    ends      the token that ends a reply
    """

    folds: str
    thoughts: str
    forks: str
    ends: str

    @staticmethod
    def of(renderer: Renderer) -> Behaviour:
        """The behaviour of the renderer's template."""
        plain = [_fork(renderer, reply) for reply in ("a", renderer.marks.close + "a" if renderer.marks else "a")]
        forks = "" if None in plain else str(plain[0])
        return Behaviour(_folds(renderer), _thoughts(renderer), forks, _ends(renderer))

    def text(self) -> str:
        """The description as one line."""
        system = f"{self.folds} system messages stand in a user message" if self.folds else "system messages stay"
        thoughts = f"thoughts are {self.thoughts}" if self.thoughts else "no thoughts"
        forks = f"token streams fork at each turn: {self.forks}" if self.forks else "token streams only grow"
        return f"{system}; {thoughts}; {forks}; replies end with {self.ends}"


def _folds(renderer: Renderer) -> str:
    system, user = Message("system", "\x02"), Message("user", "\x03")
    alone = renderer.template.fold([system])[0].role == "user"
    both = len(renderer.template.fold([system, user])) == 1
    return "all" if both else "lone" if alone else ""


def _thoughts(renderer: Renderer) -> str:
    if (marks := renderer.marks) is None:
        return ""
    opened = renderer.opened(renderer.encode([Message("user", "a")]))
    fork = _fork(renderer, f"{'' if opened else marks.open}b{marks.close}a")
    fate = "dropped from later turns (streams fork)" if fork == "thought" else "kept" if fork is None else fork
    return f"between {marks.open} and {marks.close}, {fate}"


def _fork(renderer: Renderer, reply: str) -> str | None:
    """Why the next prompt's tokens do not extend those up to `reply` (a fork); None if they do."""
    view = [Message("system", "\x02"), Message("user", "\x03")]
    try:
        part = renderer.extend(None, view)
        ids = renderer.after(renderer.end_of(part.token_ids) or renderer.anchor, reply)
        stream = renderer.answered(part, "s.1", "a", ids, "length")
        return renderer.extend(stream, [*view, Message("assistant", "a", "s.1"), Message("user", "\x03")]).fork
    except InputError:
        return "the template refuses a second turn"


def _ends(renderer: Renderer) -> str:
    """The token with which the template ends a reply, or else the model's own."""
    try:
        text = renderer.template.render([Message("user", "\x02"), Message("assistant", "\x03")], False)
    except InputError:
        text = ""
    closed = renderer.closed.match(text.rpartition("\x03")[2])
    if closed:
        return closed[0].strip()
    return f"{renderer.stops[renderer.end]} (the template writes none)" if renderer.end is not None else "nothing"
