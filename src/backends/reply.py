"""Shared by backends that sample token ids themselves: limits of a reply, its text, and checks of weight updates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ..games.base import Finish
from ..play.player import Completion, Prompt

if TYPE_CHECKING:
    from ..models.renderer import Renderer


def limit(prompt: Prompt, context: int | None) -> int:
    """The number of tokens to sample at most: limited by `sampling`, `options` and the context, but at least one."""
    assert prompt.token_ids is not None
    length = prompt.options.length(prompt.sampling.max_tokens)
    return max(1, length if context is None else min(length, context - len(prompt.token_ids)))


def stopped(prompt: Prompt, renderer: Renderer, ids: Sequence[int]) -> bool:
    """Whether the text of `ids` contains one of the prompt's stop strings."""
    if not prompt.options.stop:
        return False
    text = renderer.said(ids, prompt.token_ids or ())[1]
    return any(stop in text for stop in prompt.options.stop)


def completed(
    prompt: Prompt, renderer: Renderer, ids: Sequence[int], logprobs: Sequence[float] | None, version: str
) -> Completion:
    """The completion of sampled `ids`. The text excludes a sampled terminator and thoughts, and is cut at a stop
    string."""
    ended = ids[-1] in renderer.stop_ids
    thought, text = renderer.said(ids[:-1] if ended else ids, prompt.token_ids or ())
    cuts = [text.index(stop) for stop in prompt.options.stop if stop in text]
    finish: Finish = "stop" if ended or cuts else "length"
    rounded = None if logprobs is None else tuple(round(value, 7) for value in logprobs)
    said = text[: min(cuts, default=len(text))]
    return Completion(prompt.id, said, finish, tuple(ids), rounded, version, thought=thought)


def check_update(loaded: Collection[str], old: str, new: str, busy: bool) -> None:
    """ValueError if the policy `old` cannot be updated to the version `new` now."""
    if old not in loaded:
        raise ValueError(f"policy {old!r} cannot be updated: loaded are {', '.join(loaded) or 'none'}")
    if new != old and new in loaded:
        raise ValueError(f"policy {old!r} cannot become {new!r}, which is another policy: give it a new version")
    if busy:
        raise ValueError(f"the weights of policy {old!r} cannot be changed with open prompts")
