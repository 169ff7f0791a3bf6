"""The interface that players and backends share: submit prompts, poll completions.

`poll` does one unit of work (an engine or decode step) or waits at most `wait_s` seconds. So a local model, a remote
model, a tool and a person can play one match, and other matches need not wait for the slowest.
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
    """Sampling parameters. Temperature 0 is greedy; `top_k` 0 and `top_p` 1 do not truncate. `max_tokens` is the
    longest reply in tokens."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to a player.

    id           unique in the run: "<match id>/<request id>"
    stream       "<match id>/<seat>": prompts of one stream extend each other
    persona      key of a script's persona in this stream ("": the stream's name); paired matches share it
    messages     the seat's private view; `observation` is the same as plain data
    seed         seed of this reply
    token_ids    the rendered view, set by a language-model player before a backend gets the prompt
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
        """The name of the requested seat."""
        return self.stream.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to the prompt `id`.

    token_ids    sampled ids, including the terminator if there is one; None if a server does not return them
    logprobs     raw log-probs of those ids in nats (temperature 1, before truncation)
    prompt_ids   the prompt's ids as reported by a server that rendered the prompt itself
    policy       version that answered; call: the token record for the episode, added by the language-model player
    thought      the player's reasoning, which games do not see; seconds: duration, if measured
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
    """Answers prompts: a backend, a language-model player, a script, a person."""

    def submit(self, prompts: Sequence[Prompt]) -> None:
        """Takes prompts; returns at once."""

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        """Does one unit of work, or waits at most `wait_s` seconds; returns the completions that are ready, in any
        order."""

    def cancel(self, ids: Sequence[str]) -> None:
        """Drops prompts whose answers are no longer needed."""

    def close(self) -> None:
        """Frees memory, threads and connections."""

    @property
    def busy(self) -> bool:
        """Whether `poll` has local work to do (a remote or human player that only waits is not busy)."""


@runtime_checkable
class Remembers(Protocol):
    """A player that keeps state per stream (tokens, KV cache) until `forget`."""

    def forget(self, streams: Sequence[str]) -> None:
        """The matches of these streams ("<match id>/<seat>") are over; unknown ones are ignored."""


@runtime_checkable
class Recalls(Protocol):
    """A player that can rebuild a stream from recorded turns (for resumed and branched matches)."""

    def recall(self, prompt: Prompt, turn: Turn) -> str:
        """Restores the state after `prompt` was answered by `turn`. Called for each recorded prompt of a stream, in
        order; returns the version that answers from here on."""


@runtime_checkable
class Counts(Protocol):
    """A backend that can say how far it is with each reply."""

    def underway(self) -> Mapping[str, int]:
        """Stream -> tokens sampled so far, of the replies that are being made."""


class Backend(Player, Protocol):
    """A Player (inference engine) that answers prompts with `token_ids` by sampling from its loaded snapshots."""

    def load(self, snapshot: Snapshot) -> None:
        """Loads `snapshot` as a policy, under its version."""

    def update(self, old: str, new: str, weights: Weights) -> None:
        """Replaces the weights of the policy `old`; from now on it answers as `new`.

        KV caches of the old weights are dropped. ValueError while prompts are open, for an `old` that is not loaded or
        a `new` that is taken, and for weights of another model; InputError for models on a server.
        """
