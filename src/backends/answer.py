"""Parses a server's untrusted answer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..data.typed import wrong
from ..play.player import Completion, Prompt
from ..system.files import REFUSED, InputError
from ..system.files import reason as reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..games.base import Finish

FINISH: Mapping[str, Finish] = {"length": "length", "content_filter": "refusal"}  # every other reason is "stop"
KEPT = ("text", "finish", "thought", "token_ids", "logprobs", "prompt_ids")
T = TypeVar("T")
ABOVE_ZERO = 1e-5  # rounding error allowed above a log-prob of 0


class Unreadable(ValueError):
    """An invalid answer. Another attempt may help."""


def completion(prompt: Prompt, answer: Any, token_ids: bool) -> Completion:
    """The completion in an answer, with its token ids if `token_ids` and the answer has all of them. Unreadable for an
    invalid answer, which the client does not check."""
    choices = getattr(answer, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    text, refusal = getattr(message, "content", None), getattr(message, "refusal", None)
    if message is None or not isinstance(text, str | None) or not isinstance(refusal, str | None):
        raise Unreadable(f"the server's answer is no chat completion: {short(answer)}")
    finish = "refusal" if refusal else FINISH.get(reason(answer), "stop")
    done = Completion(prompt.id, _plain(text or refusal or ""), finish, policy=prompt.policy, thought=_thought(message))
    return _with_ids(done, answer, choice) if token_ids else done


def _thought(message: Any) -> str:
    """The reasoning in the answer, in the field of vLLM and others; "" without one."""
    told = [getattr(message, name, None) for name in ("reasoning_content", "reasoning")]
    return _plain(next((text for text in told if isinstance(text, str) and text), ""))


def keeping(done: Completion, request: str) -> dict[str, Any]:
    """A completion as plain JSON for a ledger; `request` is the digest of the sent request."""
    fields = {name: getattr(done, name) for name in KEPT}
    return {"request": request} | {name: value for name, value in fields.items() if value is not None}


def kept(found: Any, prompt: Prompt, request: str) -> Completion | None:
    """Restores the completion from `found`, the result of `keeping`; None if it is empty or of another request.
    InputError for anything else."""
    if found is None or (isinstance(found, dict) and found.get("request") != request):
        return None
    try:
        told = {name: found[name] for name in KEPT if name in found}
        fields: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in told.items()}
        done = Completion(prompt.id, policy=prompt.policy, **fields)
    except REFUSED as error:
        raise InputError(f"the ledger's answer to {prompt.id} cannot be read: {reason_of(error)}") from error
    if (what := wrong(done)) is not None:
        raise InputError(f"the ledger's answer to {prompt.id} cannot be read: {what}")
    return done


def reason(answer: Any) -> str:
    """The server's finish reason."""
    return short(getattr(answer.choices[0], "finish_reason", None))


def usage(answer: Any, said: str = "") -> tuple[int, int, int] | None:
    """(prompt tokens, completion tokens, cached prompt tokens), as the server reports; None if missing or implausible,
    as no tokens for a prompt or for the words `said` in reply."""
    told = getattr(answer, "usage", None)
    prompt, sampled = (count(getattr(told, name, None)) for name in ("prompt_tokens", "completion_tokens"))
    told_cached = getattr(getattr(told, "prompt_tokens_details", None), "cached_tokens", None)
    cached = 0 if told_cached is None else count(told_cached)
    if not prompt or sampled is None or cached is None or cached > prompt or (said and not sampled):
        return None
    return prompt, sampled, cached


def model(answer: Any) -> str:
    """The model's name in the answer."""
    return short(getattr(answer, "model", None))


def _with_ids(done: Completion, answer: Any, choice: Any) -> Completion:
    seen, sampled = getattr(answer, "prompt_token_ids", None), getattr(choice, "token_ids", None)
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    if seen is None or sampled is None or content is None:
        return done
    logprobs = [getattr(each, "logprob", None) for each in content] if isinstance(content, list) else content
    return replace(
        done,
        prompt_ids=_all(count, "prompt_token_ids", seen),
        token_ids=(ids := _all(count, "token_ids", sampled)),
        logprobs=_all(_logprob, "log-probs", logprobs, len(ids)),
    )


def sampled(answer: Any, prompt_ids: Sequence[int], name: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """(ids, log-probs in nats) of a text completion of `prompt_ids` by the model `name`; Unreadable for anything
    else."""
    if (told := getattr(answer, "model", None)) != name:
        raise Unreadable(f"{name} was asked, and {short(told)} answered")
    choices = getattr(answer, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    if _all(count, "prompt_token_ids", getattr(choice, "prompt_token_ids", None)) != tuple(prompt_ids):
        raise Unreadable("the server answered another prompt than the one sent")
    ids = _all(count, "token_ids", getattr(choice, "token_ids", None))
    if not ids:
        raise Unreadable("the server sampled nothing")
    told = getattr(getattr(choice, "logprobs", None), "token_logprobs", None)
    return ids, _all(_logprob, "log-probs", told, len(ids))


def _all(read: Callable[[Any], T | None], name: str, values: Any, length: int | None = None) -> tuple[T, ...]:
    """`read` applied to each of `values`; Unreadable if they are no list (of length `length`), or one gives None."""
    found = [read(value) for value in values] if isinstance(values, list) else [None]
    if None in found or length not in (None, len(found)):
        raise Unreadable(f"the server's {name} are invalid: {short(values)}")
    return tuple(each for each in found if each is not None)


def count(value: Any) -> int | None:
    """`value` if it can be a number of tokens or a token's id, else None."""
    return value if type(value) is int and 0 <= value < 2**31 else None


def _logprob(value: Any) -> float | None:
    good = type(value) in (int, float) and math.isfinite(value) and value <= ABOVE_ZERO
    return min(0.0, float(value)) if good else None


def short(value: Any) -> str:
    """The beginning of a server's value, for messages."""
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _plain(text: str) -> str:
    """`text` without lone surrogates, which neither files nor tokenizers accept."""
    return text.encode(errors="replace").decode()
