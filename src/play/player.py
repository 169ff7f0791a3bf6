"""The shape that players and backends share: submit prompts, poll completions.

`poll` does one unit of work (an engine or decode step) or waits at most `wait_s`, so a local model, a remote teacher,
a tool and a person can sit at one table and nobody waits for the slowest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..data.episode import Call, Turn
from ..games.base import Finish, Json, Message, Options
from ..models.snapshot import Snapshot

if TYPE_CHECKING:
    from ..models.bases import Weights


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy; `top_k` 0 and `top_p` 1 truncate nothing."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to whoever answers it.

    id           unique in the run: "<match id>/<request id>"
    stream       "<match id>/<seat>": prompts of one stream extend each other
    persona      names the person that a script plays in this stream ("": the stream): paired matches have the same
    messages     the seat's private view; `observation` is the same as plain data
    seed         of this reply alone
    token_ids    the rendered view, filled in by a language-model player before a backend sees the prompt
    policy       version of the snapshot that must answer
    """

    id: str
    stream: str
    messages: tuple[Message, ...]
    seed: int
    kind: str = "act"
    options: Options = Options()
    observation: Mapping[str, Json] | None = None
    sampling: Sampling = Sampling()
    token_ids: tuple[int, ...] | None = None
    policy: str = ""
    persona: str = ""

    @property
    def request(self) -> str:
        """The request's id within its match."""
        return self.id.rpartition("/")[2]

    @property
    def seat(self) -> str:
        """The role of the seat that is asked."""
        return self.stream.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to the prompt `id`.

    token_ids    sampled ids, terminator included when there was one; None where the server does not say
    logprobs     raw log-probs of those ids (temperature 1, before truncation)
    prompt_ids   what a server says that it saw, where the prompt was not rendered here
    policy       version that answered; call: the record for the episode, added by the language-model player
    thought      what the player said to itself before, which no game sees; seconds: how long it took, where measured
    """

    id: str
    text: str
    finish: Finish = "stop"
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    policy: str = ""
    call: Call | None = None
    prompt_ids: tuple[int, ...] | None = None
    thought: str = ""
    seconds: float | None = None


class Player(Protocol):
    """Whoever answers prompts: a backend, a language-model player, a script, a person."""

    def submit(self, prompts: Sequence[Prompt]) -> None:
        """Takes prompts; returns at once."""

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        """One unit of work; the completions that are ready, in any order."""

    def cancel(self, ids: Sequence[str]) -> None:
        """Forgets prompts that nobody waits for any more."""

    def close(self) -> None:
        """Gives back memory, threads and connections."""

    @property
    def busy(self) -> bool:
        """Whether `poll` has local work to do (a remote or human player that only waits is not busy)."""


@runtime_checkable
class Remembers(Protocol):
    """A player that keeps state per stream (tokens, keys and values) and is told when to free it."""

    def forget(self, streams: Sequence[str]) -> None:
        """The matches of these streams ("<match id>/<seat>") are over; unknown ones are ignored."""


@runtime_checkable
class Recalls(Protocol):
    """A player that can rebuild a stream from recorded turns (for resumed and branched matches)."""

    def recall(self, prompt: Prompt, turn: Turn) -> str:
        """`prompt` was answered by `turn` before. Called for each such prompt of a stream, in order; gives back the
        version that answers from here on."""


@runtime_checkable
class Counts(Protocol):
    """A backend that can say how far it is with each reply."""

    def underway(self) -> Mapping[str, int]:
        """Stream -> tokens sampled so far, of the replies that are being made."""


class Backend(Player, Protocol):
    """A Player that answers prompts with `token_ids` by sampling from the snapshot it holds."""

    def load(self, snapshot: Snapshot) -> None:
        """Makes `snapshot` one of the policies that can answer, by its version."""

    def update(self, old: str, new: str, weights: Weights) -> None:
        """Gives the policy of version `old` these weights; from now on it answers as `new`.

        No keys and values that the old weights made are kept. ValueError while prompts are open, for a version that is
        not loaded or is taken, and for weights of another model; InputError where a server holds them.
        """
