"""Models behind a server that speaks OpenAI's chat completions: OpenAI itself, vLLM's server, and others.

The official client speaks HTTP; retries are made here, because each attempt is booked in the ledger before it is sent.
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

NO_KEY = "none"  # what a server is sent that wants none
LONGEST_S = 30.0  # of a back-off that the server did not ask for
PATIENCE_S = 600.0  # the longest wait that a server may ask for
UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")  # of the HTTP library: no byte of the request has left
OVERHEAD = 16, 128  # tokens that a chat template may put around each message, and around all of them


@dataclass(frozen=True)
class Server:
    """Where a server is, and the name of the environment variable that holds its key. The key itself stands nowhere.

    url      null: OpenAI's own, or what OPENAI_BASE_URL says
    key_env  null: OPENAI_API_KEY where `url` is null, and no key at all for any other server
    """

    url: str | None = None
    key_env: str | None = None

    @property
    def key(self) -> str:
        """The key; InputError where the environment has none and the server wants one."""
        name = self.key_env or ("OPENAI_API_KEY" if self.url is None else None)
        if name is None:
            return NO_KEY
        if not os.environ.get(name):
            raise InputError(f"the server's key is missing: put it into the environment variable {name}")
        return os.environ[name]

    def client(self, timeout_s: float) -> OpenAI:
        """A client that waits for each answer. It repeats nothing by itself."""
        from openai import DefaultHttpxClient, OpenAI

        http = DefaultHttpxClient(follow_redirects=False)
        return OpenAI(api_key=self.key, base_url=self.url, timeout=timeout_s, max_retries=0, http_client=http)

    def async_client(self, timeout_s: float) -> AsyncOpenAI:
        """The client of many requests at once. What it is sent is bounded (see `answer.bound`)."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        from .wire import bound

        http = DefaultAsyncHttpxClient(
            follow_redirects=False, headers={"Accept-Encoding": "identity"}, event_hooks={"response": [bound]}
        )
        return AsyncOpenAI(api_key=self.key, base_url=self.url, timeout=timeout_s, max_retries=0, http_client=http)

    def told(self, error: BaseException) -> str:
        """An error in one line, without the key."""
        text = " ".join(self.without_key(f"{type(error).__name__}: {error}").split())
        return text if len(text) <= 500 else f"{text[:500]}…"

    def without_key(self, text: str) -> str:
        """What a server said, without the key, which some servers repeat."""
        return text if self.key == NO_KEY else text.replace(self.key, "***")


@dataclass(frozen=True)
class Served:
    """A model source: what a server has under the name `id`. It is played by backend=openai and trained by
    learner=openai."""

    id: str
    hosted = True

    def create(self, _folder: Path, _conversations: Any, _seed: int) -> Snapshot:
        """The model as it is served; nothing is made."""
        return served(self.id)


def served(model: str) -> Snapshot:
    """The snapshot of a model that a server has under this name, which is its version, too."""
    return Snapshot(model, "", served=model)


class OpenAIBackend(Remote):
    """Answers prompts by their messages, from any number of served models.

    url, key_env   see `Server`; nothing else that is secret may stand in a config
    concurrency    requests that are sent and not answered yet
    timeout_s      of one attempt, from its first byte to its last
    retries        further attempts after a lost connection, a time-out, an unreadable answer, or status 408, 409, 429
                   and 500 up; the wait doubles from `backoff_s` on, with jitter, and lasts at least as long as
                   Retry-After says
    max_requests   of the whole run, attempts counted; max_cost likewise, in the currency of the prices (per million
                   tokens)
    token_ids      asks for the sampled ids and the prompt's (vLLM's `return_token_ids`) and their log-probs. Without
                   them a reply cannot be trained on-policy
    seeds          sends each reply's own seed, which some servers refuse
    limit          the name by which the server knows a reply's length in tokens
    extra          further fields of every request, as reasoning_effort
    ledger         the file in which requests are booked
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
        self._models: dict[str, str] = {}  # version -> the name that the server knows
        self._pause = 0.0  # until then (monotonic) the server wants no request
        self._jitter = Random()  # of waits alone: no figure depends on it
        self._slots = asyncio.Semaphore(concurrency)
        self._client = self.server.async_client(timeout_s)
        super().__init__()

    # --- the shape of a backend; all of it runs in the caller's thread ---

    def load(self, snapshot: Snapshot) -> None:
        """InputError for a snapshot that is a folder here: a server plays what it has under a name."""
        if snapshot.served is None:
            raise InputError(
                f"{snapshot.version} is a folder, and this backend plays models that a server has under a name "
                f"(model=served)"
            )
        self._models[snapshot.version] = snapshot.served

    def update(self, old: str, new: str, weights: Any) -> None:
        """InputError: a server takes no weights from here."""
        raise InputError(f"{old} is held by a server, which takes no weights from here: say rounds=1, or play it here")

    def _check(self, prompt: Prompt) -> None:
        if prompt.policy not in self._models:
            raise ValueError(
                f"prompt {prompt.id} asks policy {prompt.policy!r}, loaded are {', '.join(self._models) or 'none'}"
            )

    # --- one prompt; all of it runs in the thread of the loop ---

    async def _end(self) -> None:
        await self._client.close()

    async def _answer(self, prompt: Prompt) -> Completion:
        """The prompt's completion, after as many attempts as it takes; finish "error" when they are used up. What was
        answered before the run was cut off is not asked again."""
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
        """Books, sends and settles one request. What failed after it was sent counts in full: the server may have done
        the work."""
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
            cost, facts = self._bill(ticket, answer)
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
        """A ticket, as soon as the server wants requests and the ledger has room."""
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

    def _bill(self, ticket: Ticket, answer: Any) -> tuple[float, dict[str, Any]]:
        """(cost, what is noted of the answer). An answer that says nothing of its tokens that can be so counts as the
        most it can cost."""
        facts: dict[str, Any] = {"model": self.server.without_key(model(answer)), "finish": reason(answer)}
        if (counts := usage(answer)) is None:
            return ticket.most, facts
        facts |= dict(zip(("prompt_tokens", "completion_tokens", "cached_tokens"), counts, strict=True))
        return self.prices.of(*counts), facts

    def _understood(self, prompt: Prompt, error: APIStatusError) -> Completion | None:
        """What a status means for the match; None where another attempt may help."""
        text, code = str(error).lower(), str(error.code or "")
        finish: Finish = "error"
        if error.status_code == 400 and (code == "context_length_exceeded" or "context length" in text):
            return Completion(prompt.id, "", "context", policy=prompt.policy)
        if error.status_code == 400 and ("content_filter" in code or "content_policy" in code):
            finish = "refusal"
        elif 300 <= error.status_code < 400:
            where = short(error.response.headers.get("location"))
            told = f"the server redirects to {where}, and no prompt is sent to another address: correct url"
            return Completion(prompt.id, self.server.without_key(told), "error", policy=prompt.policy)
        elif code != "insufficient_quota" and (error.status_code in (408, 409, 429) or error.status_code >= 500):
            return None
        return Completion(prompt.id, self.server.told(error), finish, policy=prompt.policy)


def most_tokens(prompt: Prompt) -> int:
    """More tokens than the prompt can have: a token is a byte of text at least, and a chat template adds a few to each
    message."""
    text = [message.content for message in prompt.messages] + (
        [json.dumps(prompt.options.schema)] if prompt.options.schema else []
    )
    return sum(len(each.encode()) + OVERHEAD[0] for each in text) + OVERHEAD[1]


def _retry_after(error: APIStatusError) -> float:
    """Seconds that the server wants to be left alone; 0 where it says nothing (or nothing readable)."""
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
