"""Players: scripts and language models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING, Any

from ..data.episode import Call, Turn
from ..data.sample import common
from ..games.base import Request, Script
from ..system.seeds import derive
from .player import Completion, Player, Prompt, Remembers, Sampling

if TYPE_CHECKING:  # scripts and people play without a model library
    from ..models.renderer import Extension, Renderer, TokenStream


class ScriptedPlayer:
    """Answers with a game's script. The persona's random generator is the same at every turn of one stream.

    `seed` gives two players with the same script different personas.
    """

    busy = True

    def __init__(self, script: Script, name: str, seed: int = 0) -> None:
        self.script, self.name, self.seed = script, name, seed
        self._waiting: dict[str, Prompt] = {}

    def submit(self, prompts: Sequence[Prompt]) -> None:
        """Keeps the prompts for the next `poll`."""
        self._waiting.update((prompt.id, prompt) for prompt in prompts)

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        """Returns the replies to all submitted prompts; scripts never wait, so `wait_s` (seconds) is unused."""
        prompts, self._waiting = self._waiting, {}
        return [Completion(prompt.id, self._reply(prompt), policy=self.name) for prompt in prompts.values()]

    def cancel(self, ids: Sequence[str]) -> None:
        """Drops open prompts by id."""
        for prompt in ids:
            self._waiting.pop(prompt, None)

    def close(self) -> None:
        """Drops all open prompts."""
        self._waiting.clear()

    def recall(self, prompt: Prompt, turn: Turn) -> str:
        """Returns the player's name: a script needs no state from a recorded turn."""
        return self.name

    def _reply(self, prompt: Prompt) -> str:
        request = Request(prompt.request, prompt.seat, prompt.messages, prompt.kind, prompt.options, prompt.observation)
        return self.script(
            request, Random(prompt.seed), Random(derive(self.seed, "persona", prompt.persona or prompt.stream))
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A language-model player's state for a prompt at its backend."""

    stream: str
    request: str
    extension: Extension
    sampling: Sampling
    aside: bool  # a probe: no later view contains it, so the stream does not change


class _Modelled:
    """Shared by both language-model players: asks a backend, and keeps each stream until its match is over.

    The backend belongs to the caller: `close` leaves it open.
    """

    def __init__(self, backend: Player, version: str, sampling: Sampling, name: str) -> None:
        self.backend, self.version, self.sampling, self.name = backend, version, sampling, name
        self.forks: Counter[str] = Counter()
        self._streams: dict[str, Any] = {}
        self._asked: dict[str, Any] = {}  # prompt id -> state while the backend works on it

    def cancel(self, ids: Sequence[str]) -> None:
        if asked := [prompt for prompt in ids if self._asked.pop(prompt, None) is not None]:
            self.backend.cancel(asked)

    def forget(self, streams: Sequence[str]) -> None:
        for stream in streams:
            self._streams.pop(stream, None)
        if isinstance(self.backend, Remembers):
            self.backend.forget(streams)

    def close(self) -> None:
        self.cancel(list(self._asked))
        self._streams.clear()


class LanguagePlayer(_Modelled):
    """Plays with a snapshot: renders each view as an extension of its stream's tokens, and lets the backend sample.

    `forks` counts by reason how often a view did not extend its stream. If several players share a backend, each gets a
    `line` of one `Switchboard`.
    """

    _streams: dict[str, TokenStream]
    _asked: dict[str, _Asked]

    def __init__(self, backend: Player, renderer: Renderer, version: str, sampling: Sampling, name: str) -> None:
        super().__init__(backend, version, sampling, name)
        self.renderer = renderer
        self._ready: list[Completion] = []  # answers without the backend

    @property
    def busy(self) -> bool:
        """Whether an answer is ready, or the backend has work for this player."""
        return bool(self._ready) or (bool(self._asked) and self.backend.busy)

    def submit(self, prompts: Sequence[Prompt]) -> None:
        """Renders the prompts and submits them to the backend; one without room for a reply is answered here."""
        if rendered := [ready for prompt in prompts if (ready := self._render(prompt)) is not None]:
            self.backend.submit(rendered)

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        """The backend's next answers with their `Call`s; waits at most `wait_s` seconds."""
        ready, self._ready = self._ready, []
        if self._asked:
            ready += [self._record(done) for done in self.backend.poll(0.0 if ready else wait_s)]
        return ready

    def cancel(self, ids: Sequence[str]) -> None:
        """Drops open prompts by id, here and at the backend."""
        gone = set(ids)
        self._ready = [done for done in self._ready if done.id not in gone]
        super().cancel(ids)

    def close(self) -> None:
        """Drops all streams and open prompts; the backend stays open."""
        self._ready.clear()
        super().close()

    def recall(self, prompt: Prompt, turn: Turn) -> str:
        """Rebuilds the stream from the recorded ids.

        After a turn without ids, or with another model's tokens, a new stream begins: the next view is rendered whole.
        """
        if turn.kind == "probe":
            return self.version
        stream = self._streams.pop(prompt.stream, None)
        if (call := turn.call) is not None:
            part = self.renderer.extend(stream, prompt.messages)
            if (part.parent, part.shared, part.prompt_ids) == (call.parent, call.shared, call.prompt_ids):
                self._streams[prompt.stream] = self.renderer.answered(
                    part, turn.request, turn.text, call.sampled_ids, turn.finish
                )
        return self.version

    def _render(self, prompt: Prompt) -> Prompt | None:
        """The prompt with token ids; None if the view leaves no room for a single token."""
        extension = self.renderer.extend(self._streams.get(prompt.stream), prompt.messages)
        if extension.fork is not None:
            self.forks[extension.fork] += 1
        length = prompt.options.length(self.sampling.max_tokens)
        if self.renderer.context is not None:
            length = min(length, self.renderer.context - len(extension.token_ids))
        if length < 1:
            self._ready.append(Completion(prompt.id, "", "context", policy=self.version))
            return None
        sampling = self.sampling if length == self.sampling.max_tokens else replace(self.sampling, max_tokens=length)
        self._asked[prompt.id] = _Asked(prompt.stream, prompt.request, extension, sampling, prompt.kind == "probe")
        return replace(prompt, token_ids=tuple(extension.token_ids), sampling=sampling, policy=self.version)

    def _record(self, done: Completion) -> Completion:
        """The completion with its `Call`. Without ids or log-probs it has none, and a new stream begins."""
        asked = self._asked.pop(done.id, None)
        if asked is None:
            raise RuntimeError(
                f"the backend of {self.name} answered {done.id}, which {self.name} did not ask; share it by a "
                f"Switchboard"
            )
        if done.policy not in ("", self.version):
            raise RuntimeError(f"{done.id} was answered by policy {done.policy!r}; {self.name} asked {self.version!r}")
        if done.token_ids is None or done.logprobs is None or done.finish == "error":
            if not asked.aside:
                self._streams.pop(asked.stream, None)
            return replace(done, policy=self.version)
        part, sampling = asked.extension, _plain(asked.sampling)
        if not asked.aside:
            self._streams[asked.stream] = self.renderer.answered(
                part, asked.request, done.text, done.token_ids, done.finish
            )
        call = Call(
            tuple(part.prompt_ids),
            done.token_ids,
            done.logprobs,
            self.version,
            part.parent,
            part.shared,
            part.fork,
            sampling,
        )
        return replace(done, policy=self.version, call=call)


@lru_cache(maxsize=1024)
def _plain(sampling: Sampling) -> Mapping[str, float]:
    """The sampling parameters as recorded in an episode; cached, because replies share them."""
    return {name: float(value) for name, value in asdict(sampling).items()}


class ServedPlayer(_Modelled):
    """Plays with a model on a server, which renders the views itself.

    Replies have a `Call` if the server returns prompt ids, sampled ids and log-probs; others cannot be trained
    on-policy. `forks` counts how often a prompt did not begin with the stream so far.
    """

    _streams: dict[str, tuple[str, tuple[int, ...]]]  # stream -> (last request, all ids up to its end)
    _asked: dict[str, Prompt]

    @property
    def busy(self) -> bool:
        return bool(self._asked) and self.backend.busy

    def submit(self, prompts: Sequence[Prompt]) -> None:
        lengths = [prompt.options.length(self.sampling.max_tokens) for prompt in prompts]
        asked = [
            replace(p, sampling=replace(self.sampling, max_tokens=n), policy=self.version)
            for p, n in zip(prompts, lengths, strict=True)
        ]
        self._asked.update((prompt.id, prompt) for prompt in asked)
        self.backend.submit(asked)

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        return [self._record(done) for done in self.backend.poll(wait_s)] if self._asked else []

    def recall(self, prompt: Prompt, turn: Turn) -> str:
        """Rebuilds the stream from the recorded ids, if the turn has any."""
        if turn.kind == "probe":
            return self.version
        parent, before = self._streams.pop(prompt.stream, (None, ()))
        if (call := turn.call) is not None and call.parent in (None, parent):
            ids = before[: call.shared] + call.prompt_ids + call.sampled_ids
            self._streams[prompt.stream] = turn.request, ids
        return self.version

    def _record(self, done: Completion) -> Completion:
        prompt = self._asked.pop(done.id)
        parent, before = self._streams.pop(prompt.stream, (None, ()))
        if prompt.kind == "probe" and parent is not None:
            self._streams[prompt.stream] = parent, before
        if done.token_ids is None or done.logprobs is None or done.prompt_ids is None:
            return done
        shared = common(before, done.prompt_ids)
        fork = "history rewritten by the server" if shared < len(before) else None
        self.forks.update([fork] if fork else [])
        if prompt.kind != "probe":
            self._streams[prompt.stream] = prompt.request, done.prompt_ids + done.token_ids
        new, sampling = done.prompt_ids[shared:], _plain(prompt.sampling)
        return replace(
            done, call=Call(new, done.token_ids, done.logprobs, self.version, parent, shared, fork, sampling)
        )


class Switchboard:
    """Shares one backend among several players: every `line` is a Player, and completions go to the line that asked."""

    def __init__(self, backend: Player) -> None:
        self.backend = backend
        self._asker: dict[str, Line] = {}  # prompt id -> the line that submitted it

    def line(self) -> Line:
        """A new line to the backend. Closing it cancels its prompts and leaves the backend open."""
        return Line(self)

    def submit(self, line: Line, prompts: Sequence[Prompt]) -> None:
        self._asker.update((prompt.id, line) for prompt in prompts)
        self.backend.submit(prompts)

    def poll(self, wait_s: float) -> None:
        """Does one unit of the backend's work; RuntimeError if it answers an unknown prompt."""
        for done in self.backend.poll(wait_s):
            line = self._asker.pop(done.id, None)
            if line is None:
                raise RuntimeError(f"the backend answered {done.id}, which is not an open prompt")
            line.inbox.append(done)

    def cancel(self, line: Line, ids: Sequence[str]) -> None:
        if asked := [prompt for prompt in ids if self._asker.get(prompt) is line]:
            for prompt in asked:
                del self._asker[prompt]
            self.backend.cancel(asked)

    def forget(self, streams: Sequence[str]) -> None:
        if isinstance(self.backend, Remembers):
            self.backend.forget(streams)

    def open(self, line: Line) -> list[str]:
        """The open prompts of `line`."""
        return [prompt for prompt, asker in self._asker.items() if asker is line]


class Line:
    """One player's connection to a shared backend."""

    def __init__(self, board: Switchboard) -> None:
        self.inbox: list[Completion] = []
        self._board = board

    @property
    def busy(self) -> bool:
        return bool(self.inbox) or self._board.backend.busy

    def submit(self, prompts: Sequence[Prompt]) -> None:
        self._board.submit(self, prompts)

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        """Returns this line's completions; if there are none, first does one unit of the backend's work."""
        if not self.inbox:
            self._board.poll(wait_s)
        ready, self.inbox = self.inbox, []
        return ready

    def cancel(self, ids: Sequence[str]) -> None:
        gone = set(ids)
        self.inbox = [done for done in self.inbox if done.id not in gone]
        self._board.cancel(self, ids)

    def forget(self, streams: Sequence[str]) -> None:
        self._board.forget(streams)

    def close(self) -> None:
        self.cancel([*self._board.open(self), *(done.id for done in self.inbox)])
