"""vLLM's own servers as one backend. Each server has the base and loads adapters at run time.

Views are rendered here and token ids are sent both ways, so a reply equals that of an engine in this process. A stream
stays with one server, which has its prefix in the cache. If that server is lost, its streams move to others, and open
prompts are sent again. Every server loads an adapter under its version before the first request; an answer with another
name is discarded.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from ..models.renderer import Renderer
from ..models.snapshot import Snapshot
from ..play.player import Completion, Prompt
from ..system.files import InputError
from .answer import Unreadable, sampled, usage
from .openai import LONGEST_S, Server
from .remote import Remote
from .reply import completed, limit
from .vllm import never_sampled

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI


@dataclass(eq=False)
class Place:
    """One server. `names`: version -> its name on the server; `streams` is the number of streams assigned to it."""

    server: Server
    client: AsyncOpenAI
    slots: asyncio.Semaphore
    names: dict[str, str] = field(default_factory=dict)
    streams: int = 0
    losses: int = 0  # consecutive
    rests_until: float = 0.0  # monotonic
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def up(self) -> bool:
        return time.monotonic() >= self.rests_until

    def lost(self, backoff_s: float) -> None:
        """Pauses the server for a while, and forgets what it has loaded, because it may have been restarted. Requests
        that were open at the same time count as one loss."""
        self.names.clear()
        if self.up:
            self.losses += 1
            self.rests_until = time.monotonic() + min(LONGEST_S, backoff_s * 2.0 ** min(self.losses, 100))


@dataclass(frozen=True, slots=True)
class Policy:
    """A loaded snapshot."""

    snapshot: Snapshot
    renderer: Renderer
    bias: dict[str, int]  # for ids that are never sampled

    @property
    def base(self) -> str:
        return self.snapshot.base or self.snapshot.path


class VLLMServers(Remote):
    """Answers prompts with `token_ids` on servers started with `vllm serve BASE --enable-lora` and with
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1. They must see the same paths as this process.

    urls         addresses that end in /v1. `http://gpu[03-05,9]:8000/v1` stands for four, in SLURM's notation of hosts;
                 a string that is not an address is a file with one address per line
    key_env      environment variable with the servers' key; null: no key
    concurrency  most open requests per server
    timeout_s    seconds of one attempt
    retries      further attempts for a prompt, on any server; the pause of a lost server doubles from `backoff_s`
                 seconds on

    `prompt_tokens` and `cached_tokens` sum the servers' reports on their prefix caches; `moved` counts streams moved
    from lost servers.
    """

    adapters_only = True

    def __init__(
        self, *, urls: Sequence[str] | str, key_env: str | None = None, concurrency: int = 64, timeout_s: float = 600.0,
        retries: int = 12, backoff_s: float = 0.5,
    ) -> None:  # fmt: skip
        if concurrency < 1 or timeout_s <= 0 or retries < 0:
            raise InputError(
                f"concurrency {concurrency} must be at least 1, timeout_s {timeout_s} above 0, retries {retries} at "
                f"least 0"
            )
        servers = [Server(url, key_env) for url in addresses(urls)]
        self.timeout_s, self.retries, self.backoff_s = timeout_s, retries, backoff_s
        self.prompt_tokens = self.cached_tokens = self.moved = 0
        self.places = [Place(each, each.async_client(timeout_s), asyncio.Semaphore(concurrency)) for each in servers]
        self._homes: dict[str, Place] = {}
        self._policies: dict[str, Policy] = {}
        self._jitter = Random()  # only for waits; no result depends on it
        super().__init__()

    # --- the Backend interface; runs in the caller's thread ---

    def load(self, snapshot: Snapshot) -> None:
        """Loads the snapshot into every server that answers. InputError if none answers, or one has another base."""
        if snapshot.version not in self._policies:
            base = snapshot.base or snapshot.path
            policy = Policy(snapshot, Renderer.load(base), {str(each): -100 for each in never_sampled(base)})
            asyncio.run_coroutine_threadsafe(self._introduced(policy), self._loop).result()
            self._policies[snapshot.version] = policy

    def update(self, old: str, new: str, weights: Any) -> None:
        """InputError: servers load adapters from files, and a round inside an iteration writes none."""
        raise InputError(f"{old} is played by servers, which take adapters as files: say rounds=1, or play it here")

    def forget(self, streams: Sequence[str]) -> None:
        """Releases these streams' servers; their matches are over."""
        self._loop.call_soon_threadsafe(self._leave, streams)

    def _check(self, prompt: Prompt) -> None:
        if not prompt.token_ids:
            raise ValueError(f"prompt {prompt.id} has no token_ids: a language-model player must render it first")
        if prompt.policy not in self._policies:
            raise ValueError(
                f"prompt {prompt.id} asks policy {prompt.policy!r}, loaded are {', '.join(self._policies) or 'none'}"
            )

    # --- one prompt; runs in the event loop's thread ---

    async def _answer(self, prompt: Prompt) -> Completion:
        """The prompt's completion, from any server; finish "error" after the last attempt."""
        from openai import APIConnectionError, APIStatusError

        policy = self._policies[prompt.policy]
        context = policy.renderer.context
        if context is not None and len(prompt.token_ids or ()) >= context:
            return Completion(prompt.id, "", "context", (), (), prompt.policy)
        why: Exception = InputError("it was not tried")
        for _ in range(self.retries + 1):
            place = await self._place(prompt.stream)
            try:
                async with place.slots, asyncio.timeout(self.timeout_s):
                    ids, logprobs = await self._sample(place, prompt, policy)
                place.losses = 0
                return completed(prompt, policy.renderer, ids, logprobs, prompt.policy)
            except APIStatusError as error:
                why = error
                if error.status_code == 404:
                    place.names.pop(prompt.policy, None)  # the server has lost the adapter: load it again
                elif _final(error):
                    break
                else:
                    place.lost(self.backoff_s)
            except (APIConnectionError, TimeoutError, ValueError, RecursionError) as error:
                why = error.__cause__ if isinstance(error.__cause__, Unreadable) else error
                place.lost(self.backoff_s)
        told = f"{place.server.url}, the last of the attempts: {place.server.told(why)}"
        return Completion(prompt.id, told, "error", policy=prompt.policy)

    async def _place(self, stream: str) -> Place:
        """The stream's server, or a new one if that is lost. Waits while all are lost."""
        home = self._homes.get(stream)
        if home is not None and home.up:
            return home
        while not (there := [place for place in self.places if place.up]):
            soonest = min(place.rests_until for place in self.places)
            await asyncio.sleep(max(0.0, soonest - time.monotonic()) + self._jitter.uniform(0.0, self.backoff_s / 10))
        if home is not None:
            self.moved += 1
            home.streams -= 1
        home = self._homes[stream] = min(there, key=lambda place: place.streams)
        home.streams += 1
        return home

    def _leave(self, streams: Sequence[str]) -> None:
        for stream in streams:
            if (home := self._homes.pop(stream, None)) is not None:
                home.streams -= 1

    async def _sample(self, place: Place, prompt: Prompt, policy: Policy) -> tuple[tuple[int, ...], Any]:
        """(ids, log-probs). Unreadable for an answer by another version, or to other prompt ids."""
        await self._introduce(place, policy)
        name, sampling, options = place.names[prompt.policy], prompt.sampling, prompt.options
        extra: dict[str, Any] = {
            "return_token_ids": True,
            "stop_token_ids": sorted(policy.renderer.stop_ids),
            "cache_salt": prompt.policy,
        }
        if sampling.top_k:
            extra["top_k"] = sampling.top_k
        if options.schema is not None:
            extra["structured_outputs"] = {"json": dict(options.schema)}
        ids = list(prompt.token_ids or ())
        answer = await place.client.completions.create(
            model=name, prompt=ids, max_tokens=limit(prompt, policy.renderer.context), logprobs=1,
            temperature=sampling.temperature, top_p=sampling.top_p, seed=prompt.seed % 2**63,
            stop=list(options.stop) or None, logit_bias=policy.bias or None, extra_body=extra,
        )  # fmt: skip
        found, logprobs = sampled(answer, ids, name)
        if (counts := usage(answer)) is not None:
            self.prompt_tokens, self.cached_tokens = self.prompt_tokens + counts[0], self.cached_tokens + counts[2]
        return found, logprobs if options.schema is None else None

    # --- loading ---

    async def _introduced(self, policy: Policy) -> None:
        """Loads the policy into every server that answers; InputError if none answers."""
        found = await asyncio.gather(*(self._tried(place, policy) for place in self.places))
        if wrong := [each for each in found if isinstance(each, InputError)]:
            raise wrong[0]
        if None not in found:
            told = "; ".join(f"{place.server.url}: {why}" for place, why in zip(self.places, found, strict=True))
            raise InputError(f"no server answers ({told}): start them with vllm serve {policy.base}, then resume")

    async def _tried(self, place: Place, policy: Policy) -> str | InputError | None:
        """Tries to load the policy into a server; returns None on success, else the reason."""
        from openai import OpenAIError

        try:
            async with asyncio.timeout(self.timeout_s):
                await self._introduce(place, policy)
        except InputError as error:
            return error
        except (OpenAIError, TimeoutError, ValueError) as error:
            place.lost(self.backoff_s)
            return place.server.told(error)
        return None

    async def _introduce(self, place: Place, policy: Policy) -> None:
        """Loads the policy into a server unless it is loaded; InputError if the server has another base or refuses."""
        version = policy.snapshot.version
        async with place.lock:
            if version not in place.names:
                served = {card.id: _root(card) async for card in place.client.models.list()}
                base = _base_among(served, place.server, policy)
                if policy.snapshot.base is not None and version not in served:
                    await self._load(place, version, policy.snapshot.path)
                place.names[version] = base if policy.snapshot.base is None else version

    async def _load(self, place: Place, name: str, folder: str) -> None:
        from openai import APIStatusError

        request = {"lora_name": name, "lora_path": str(Path(folder).resolve())}
        try:
            await place.client.post("/load_lora_adapter", body=request, cast_to=str)
        except APIStatusError as error:
            if "already been loaded" in str(error):  # by another rank, a moment ago
                return
            if error.status_code >= 500 and "rank" not in str(error):
                raise
            hint = " (start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora --max-lora-rank R)"
            raise InputError(f"{place.server.url} does not load {folder}: {place.server.told(error)}{hint}") from error

    async def _end(self) -> None:
        for place in self.places:
            await place.client.close()


def _final(error: APIStatusError) -> bool:
    """Whether the request itself or the key is at fault, so that no server would answer."""
    return 400 <= error.status_code < 500 and error.status_code not in (408, 409, 429)


def _base_among(served: Mapping[str, str], server: Server, policy: Policy) -> str:
    """The name of the policy's base among `served` (name -> folder); InputError if it is not there."""
    for name, root in served.items():
        if _same(root, policy.base):
            return name
    found = ", ".join(filter(None, served.values())) or "nothing"
    raise InputError(
        f"{server.url} serves {found}, and {policy.snapshot.version} stands on {policy.base}: start it with vllm serve "
        f"{policy.base}"
    )


def _root(card: Any) -> str:
    root = getattr(card, "root", None)
    return root if isinstance(root, str) else ""


def _same(one: str, other: str) -> bool:
    return bool(one) and Path(one).resolve() == Path(other).resolve()


# --- addresses -------------------------------------------------------------------------------------------------------

LIST = re.compile(r"\[([\d,\-]+)\]")


def addresses(urls: Sequence[str] | str) -> list[str]:
    """The addresses in `urls`. InputError if there are none, one is invalid, or a file cannot be read."""
    if isinstance(urls, str) and "://" not in urls:
        try:
            urls = [line.strip() for line in Path(urls).expanduser().read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"urls={urls} is no address, and cannot be read as a file of them: {error}") from error
    found = [each for url in ([urls] if isinstance(urls, str) else urls) for each in _expanded(url)]
    if not found:
        raise InputError("urls names no server: say backend.urls=[http://HOST:8000/v1,…], or the path of a file")
    for url in found:
        if not re.fullmatch(r"https?://[^/\s\[\]]+(/\S*)?", url):
            raise InputError(f"urls: {url} is no address of a server, which is like http://HOST:8000/v1")
    if len(set(found)) < len(found):
        raise InputError("urls names a server twice")
    return found


def _expanded(url: str) -> Iterator[str]:
    """`http://gpu[03-05,9]:8000/v1` as gpu03, gpu04, gpu05 and gpu9."""
    if (match := LIST.search(url)) is None:
        yield url
        return
    for part in match[1].split(","):
        first, _, last = part.partition("-")
        if not first or not (last or part == first) or int(last or first) - int(first) > 9_999:
            raise InputError(f"urls: [{match[1]}] in {url} is no list of hosts, which is like [03-05,9]")
        for number in range(int(first), int(last or first) + 1):
            yield from _expanded(f"{url[: match.start()]}{number:0{len(first)}d}{url[match.end() :]}")
