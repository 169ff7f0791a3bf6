"""The backend for servers of OpenAI's chat completions: OpenAI itself, vLLM's server, and others.

The official client does the HTTP. Retries are made here, because each attempt is booked in the ledger before it is
sent.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from ..games.base import Finish
from ..models.snapshot import Snapshot
from ..play.player import Completion, Prompt
from ..system.files import InputError, digest
from ..system.spending import Ledger, Prices, Ticket
from .answer import Unreadable, completion, keeping, kept, model, reason, short, usage
from .remote import Remote

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI, OpenAI

NO_KEY = "none"  # placeholder for servers without a key
LONGEST_S = 30.0  # longest back-off without Retry-After, in seconds
PATIENCE_S = 600.0  # longest accepted Retry-After, in seconds
UNSENT = (
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
)  # errors of the HTTP library before any byte of the request was sent
OVERHEAD = 16, 128  # maximum tokens that a chat template adds per message, and per chat


@dataclass(frozen=True)
class Server:
    """A server's address, and the name of the environment variable with its key. The key itself is stored nowhere.

    url      null: OPENAI_BASE_URL, or OpenAI's own
    key_env  null: OPENAI_API_KEY if `url` is null, else no key
    """

    url: str | None = None
    key_env: str | None = None

    @property
    def key(self) -> str:
        """The key; InputError if the variable is not set."""
        name = self.key_env or ("OPENAI_API_KEY" if self.url is None else None)
        if name is None:
            return NO_KEY
        if not os.environ.get(name):
            raise InputError(f"the server's key is missing: put it into the environment variable {name}")
        return os.environ[name]

    def client(self, timeout_s: float) -> OpenAI:
        """A synchronous client without automatic retries. The size of answers is limited (see `wire.bound`)."""
        from openai import DefaultHttpxClient, OpenAI

        from .wire import bound_sync

        http = DefaultHttpxClient(
            headers={"Accept-Encoding": "identity"}, follow_redirects=False, event_hooks={"response": [bound_sync]}
        )
        return OpenAI(api_key=self.key, base_url=self.url, timeout=timeout_s, max_retries=0, http_client=http)

    def async_client(self, timeout_s: float) -> AsyncOpenAI:
        """An asynchronous client for many requests at once. The size of answers is limited (see `wire.bound`)."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        from .wire import bound

        http = DefaultAsyncHttpxClient(
            follow_redirects=False, headers={"Accept-Encoding": "identity"}, event_hooks={"response": [bound]}
        )
        return AsyncOpenAI(api_key=self.key, base_url=self.url, timeout=timeout_s, max_retries=0, http_client=http)

    def told(self, error: BaseException) -> str:
        """An error as one line, without the key."""
        text = " ".join(self.without_key(f"{type(error).__name__}: {error}").split())
        return text if len(text) <= 500 else f"{text[:500]}…"

    def without_key(self, text: str) -> str:
        """`text` without the key, which some servers repeat in answers."""
        return text if self.key == NO_KEY else text.replace(self.key, "***")


@dataclass(frozen=True)
class Served:
    """A model source: the model that a server calls `id`, for backend=openai and learner=openai."""

    id: str
    hosted = True

    def create(self, _folder: Path, _conversations: Any, _seed: int) -> Snapshot:
        """The served model; creates nothing."""
        return served(self.id)


def served(model: str) -> Snapshot:
    """The snapshot of a model with this name on a server; the name is also its version."""
    return Snapshot(model, "", served=model)


class OpenAIBackend(Remote):
    """Answers prompts from their messages, with any number of served models.

    url, key_env   see `Server`; a config must contain no other secret
    concurrency    maximum number of open requests
    timeout_s      seconds of one attempt, from its first byte to its last
    retries        further attempts after a lost connection, a timeout, an unreadable answer, or status 408, 409, 429
                   and 500 up; the wait doubles from `backoff_s` on, with jitter, and is at least Retry-After
    max_requests   limit on all attempts of the run; max_cost: limit on their cost, in the currency of the prices (per
                   million tokens)
    token_ids      requests the sampled ids, the prompt's ids (vLLM's `return_token_ids`) and log-probs. Without them a
                   reply cannot be trained on-policy
    seeds          sends each reply's seed, which some servers refuse
    limit          the server's parameter for the longest reply in tokens
    extra          further fields of every request, such as reasoning_effort
    ledger         file in which requests are booked
    """

    hosted = True

    def __init__(
        self, *, url: str | None = None, key_env: str | None = None, concurrency: int = 32, timeout_s: float = 60.0,
        retries: int = 6,
        backoff_s: float = 0.5, max_requests: int | None = None, max_cost: float | None = None,
        price_prompt: float = 0.0,
        price_completion: float = 0.0, price_cached: float | None = None, token_ids: bool = False, seeds: bool = True,
        limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens", extra: Mapping[str, Any] | None = None,
        ledger: Path | None = None,
    ) -> None:  # fmt: skip
        if concurrency < 1 or timeout_s <= 0 or retries < 0:
            raise InputError(
                f"concurrency {concurrency} must be at least 1, timeout_s {timeout_s} above 0, retries {retries} at "
                f"least 0"
            )
        if max_cost is not None and price_prompt + price_completion <= 0:
            raise InputError(
                f"max_cost={max_cost:g} needs prices, per million tokens: say price_prompt and price_completion"
            )
        self.server, self.prices = Server(url, key_env), Prices(price_prompt, price_completion, price_cached)
        self.timeout_s, self.retries, self.backoff_s = timeout_s, retries, backoff_s
        self.token_ids, self.seeds, self.limit, self.extra = token_ids, seeds, limit, dict(extra or {})
        self.ledger = Ledger(ledger, max_requests, max_cost)
        self._models: dict[str, str] = {}  # version -> name on the server
        self._pause = 0.0  # send no request before this time (monotonic)
        self._jitter = Random()  # only for waits; no result depends on it
        self._slots = asyncio.Semaphore(concurrency)
        self._client = self.server.async_client(timeout_s)
        super().__init__()

    # --- the Backend interface; runs in the caller's thread ---

    def load(self, snapshot: Snapshot) -> None:
        """InputError for a snapshot that is a local folder: a server plays only its named models."""
        if snapshot.served is None:
            raise InputError(
                f"{snapshot.version} is a folder, but this backend plays models that a server has under a name "
                f"(model=served)"
            )
        self._models[snapshot.version] = snapshot.served

    def update(self, old: str, new: str, weights: Any) -> None:
        """InputError: a server accepts no weights."""
        raise InputError(
            f"{old} is on a server, which accepts no weights: say rounds=1, or play it with a local backend"
        )

    def _check(self, prompt: Prompt) -> None:
        if prompt.policy not in self._models:
            raise ValueError(
                f"prompt {prompt.id} asks policy {prompt.policy!r}, loaded are {', '.join(self._models) or 'none'}"
            )

    # --- one prompt; runs in the event loop's thread ---

    async def _end(self) -> None:
        await self._client.close()

    async def _answer(self, prompt: Prompt) -> Completion:
        """The prompt's completion after up to `retries` + 1 attempts, else finish "error". Prompts answered before a
        kill are not sent again."""
        from openai import APIConnectionError, APIStatusError

        if (before := kept(self.ledger.answer(prompt.id), prompt, digest(self._request(prompt)))) is not None:
            return before
        for attempt in range(self.retries + 1):
            try:
                async with self._slots:
                    return await self._attempt(prompt)
            except APIStatusError as error:
                if (known := self._understood(prompt, error)) is not None:
                    return known
                why: Exception = error
                wait_s = _retry_after(error)
                if wait_s > PATIENCE_S:
                    break
                self._pause = max(self._pause, time.monotonic() + wait_s)
            except (APIConnectionError, TimeoutError, ValueError, RecursionError) as error:
                if isinstance(error, InputError):
                    raise
                why = error.__cause__ if isinstance(error.__cause__, Unreadable) else error
            if attempt < self.retries:
                await asyncio.sleep(min(LONGEST_S, self.backoff_s * 2**attempt) * self._jitter.uniform(0.5, 1.0))
        return Completion(
            prompt.id, f"{attempt + 1} attempts, the last: {self.server.told(why)}", "error", policy=prompt.policy
        )

    async def _attempt(self, prompt: Prompt) -> Completion:
        """Books, sends and settles one request. A failure after sending is billed in full, because the server may have
        done the work."""
        from openai import APIConnectionError, APIStatusError

        request = self._request(prompt)
        ticket = await self._booked(prompt, request)
        cost = ticket.most
        facts: dict[str, Any] = {}
        given = None
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await self._client.chat.completions.create(**request)
            done = completion(prompt, answer, self.token_ids)
            cost, facts = self._bill(ticket, answer, done)
            text, thought = map(self.server.without_key, (done.text, done.thought))
            done = replace(done, text=text, thought=thought)
            given = keeping(done, digest(request))
            return done
        except APIStatusError as error:
            cost, facts = 0.0, {"status": error.status_code}
            raise
        except APIConnectionError as error:
            cost = 0.0 if type(error.__cause__).__name__ in UNSENT else cost
            raise
        finally:
            self.ledger.settle(ticket, cost, facts, given)

    async def _booked(self, prompt: Prompt, request: Mapping[str, Any]) -> Ticket:
        """A ticket, once the server accepts requests and the ledger has room."""
        most = self.prices.of(most_tokens(prompt), request[self.limit])
        while True:
            if (wait_s := self._pause - time.monotonic()) > 0:
                await asyncio.sleep(wait_s + self._jitter.uniform(0.0, self.backoff_s))
            elif (ticket := self.ledger.book(prompt.id, most)) is not None:
                return ticket
            else:
                await asyncio.sleep(0.02)

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        sampling, options = prompt.sampling, prompt.options
        request: dict[str, Any] = {
            "model": self._models[prompt.policy],
            "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            self.limit: options.length(sampling.max_tokens),
        }
        extra = dict(self.extra)
        if self.seeds:
            request["seed"] = prompt.seed % 2**63
        if options.stop:
            request["stop"] = list(options.stop)
        if options.schema is not None:
            schema = {"name": "reply", "strict": True, "schema": dict(options.schema)}
            request["response_format"] = {"type": "json_schema", "json_schema": schema}
        if sampling.top_k:
            extra["top_k"] = sampling.top_k
        if self.token_ids:
            request["logprobs"], extra["return_token_ids"] = True, True
        return request | ({"extra_body": extra} if extra else {})

    def _bill(self, ticket: Ticket, answer: Any, done: Completion) -> tuple[float, dict[str, Any]]:
        """(cost, notes on the answer). An answer without plausible token counts is billed at its maximum."""
        facts: dict[str, Any] = {"model": self.server.without_key(model(answer)), "finish": reason(answer)}
        if (counts := usage(answer, done.text or done.thought)) is None:
            return ticket.most, facts
        facts |= dict(zip(("prompt_tokens", "completion_tokens", "cached_tokens"), counts, strict=True))
        return self.prices.of(*counts), facts

    def _understood(self, prompt: Prompt, error: APIStatusError) -> Completion | None:
        """The completion for a status that ends the match; None if another attempt may help."""
        text, code = str(error).lower(), str(error.code or "")
        finish: Finish = "error"
        if error.status_code == 400 and (code == "context_length_exceeded" or "context length" in text):
            return Completion(prompt.id, "", "context", policy=prompt.policy)
        if error.status_code == 400 and ("content_filter" in code or "content_policy" in code):
            finish = "refusal"
        elif 300 <= error.status_code < 400:
            where = short(error.response.headers.get("location"))
            told = f"the server redirects to {where}, but prompts are sent to no other address: correct url"
            return Completion(prompt.id, self.server.without_key(told), "error", policy=prompt.policy)
        elif code != "insufficient_quota" and (error.status_code in (408, 409, 429) or error.status_code >= 500):
            return None
        return Completion(prompt.id, self.server.told(error), finish, policy=prompt.policy)


def most_tokens(prompt: Prompt) -> int:
    """An upper bound of the prompt's tokens: a token takes at least one byte of text, and a chat template adds a few
    tokens to each message."""
    text = [message.content for message in prompt.messages] + (
        [json.dumps(prompt.options.schema)] if prompt.options.schema else []
    )
    return sum(len(each.encode()) + OVERHEAD[0] for each in text) + OVERHEAD[1]


def _retry_after(error: APIStatusError) -> float:
    """The server's Retry-After in seconds; 0 if missing or unreadable."""
    headers = error.response.headers
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after", "0")
        return max(
            0.0, float(value) if not value[:1].isalpha() else parsedate_to_datetime(value).timestamp() - time.time()
        )
    except (ValueError, TypeError, OverflowError):
        return 0.0
