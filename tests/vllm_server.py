"""vLLM's server as `backend=vllm_servers` sees it: models, adapters that are loaded while it serves, text completions
of token ids. The transformers backend samples behind it, so that ids and log-probs are real.

Its faults are those of `openai_server`. `stale` has it answer as the base does, whatever it was asked; `restart` has it
forget its adapters.
"""

from __future__ import annotations

import json
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from threading import Lock
from typing import Any

from parley.backends.hf import HFBackend
from parley.games.base import Options
from parley.models import snapshot
from parley.models.snapshot import Snapshot
from parley.play.player import Prompt, Sampling

from openai_server import Server

BLOCK = 4  # tokens of a unit of its prefix cache
ENGINE = Lock()  # transformers cannot load two models at once


class FakeVLLM(Server):
    """The server of the model in the folder `base`, which it names `base`."""

    def __init__(
        self, base: str, adapters: bool = True, engine: HFBackend | None = None, block: int = BLOCK, **given: Any
    ) -> None:
        self.base, self.adapters, self.stale = base, adapters, False
        self.engine, self.block = engine or HFBackend(), block
        self.cache: set[tuple[Any, ...]] = set()
        self.prompts: list[tuple[str, tuple[int, ...]]] = []  # (model, prompt) of what was sampled
        self.restart()
        super().__init__(where="POST /v1/completions", **given)

    def restart(self) -> None:
        self.models: dict[str, Snapshot] = {"base": snapshot.of(self.base, "base")}
        self.cache.clear()

    def _answer(self, http: BaseHTTPRequestHandler, data: bytes, what: str) -> Any:
        if what == "GET /v1/models":
            return {"object": "list", "data": [self._card(*each) for each in self.models.items()]}
        body = json.loads(data)
        return self._load(body) if what == "POST /v1/load_lora_adapter" else self._sampled(body)

    def _serve(self, http: BaseHTTPRequestHandler, data: bytes, what: str, fault: str) -> None:
        wrong = None
        if what == "POST /v1/completions" and json.loads(data)["model"] not in self.models:
            wrong = 404, f"The model {json.loads(data)['model']!r} does not exist."
        if what == "POST /v1/load_lora_adapter":
            if not self.adapters:
                wrong = 404, "Not Found"
            elif json.loads(data)["lora_name"] in self.models:
                wrong = 400, f"The lora adapter {json.loads(data)['lora_name']!r} has already been loaded."
        if wrong is not None and not fault:
            error = {"message": wrong[1], "type": "NotFoundError", "code": wrong[0]}
            return self._send(http, wrong[0], {"error": error}, {})
        with suppress(ConnectionError):  # of a run that was killed
            super()._serve(http, data, what, fault)
        return None

    def _card(self, name: str, made: Snapshot) -> dict[str, Any]:
        parent = "base" if made.base else None
        return {"id": name, "object": "model", "created": 1, "owned_by": "vllm", "root": made.path, "parent": parent}

    def _load(self, body: dict[str, Any]) -> str:
        self.models[body["lora_name"]] = snapshot.of(body["lora_path"], "adapter", self.base)
        return f"Success: LoRA adapter '{body['lora_name']}' added successfully."

    def _sampled(self, body: dict[str, Any]) -> dict[str, Any]:
        name = "base" if self.stale else body["model"]
        ids, made = tuple(body["prompt"]), self.models[name]
        sampling = Sampling(body["temperature"], body["top_p"], body.get("top_k", 0), body["max_tokens"])
        options = Options(stop=tuple(body.get("stop") or ()))
        prompt = Prompt("p", "p", (), body["seed"], options=options, sampling=sampling, token_ids=ids,
                        policy=made.version)  # fmt: skip
        with ENGINE:
            self.engine.load(made)
            self.engine.submit([prompt])
            done: list[Any] = []
            while not done:
                done = self.engine.poll()
            self.engine.forget(["p"])
            cached = self._cached(body.get("cache_salt"), (*ids, *done[0].token_ids), len(ids))
            self.prompts.append((name, ids))
        choice = {
            "index": 0, "text": done[0].text, "finish_reason": done[0].finish, "prompt_token_ids": list(ids),
            "token_ids": list(done[0].token_ids), "logprobs": {"token_logprobs": list(done[0].logprobs)},
        }  # fmt: skip
        usage = {
            "prompt_tokens": len(ids), "completion_tokens": len(done[0].token_ids), "total_tokens": len(ids),
            "prompt_tokens_details": {"cached_tokens": cached},
        }  # fmt: skip
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": name}
        return {**head, "choices": [choice], "usage": usage}

    def _cached(self, salt: Any, ids: tuple[int, ...], prompt: int) -> int:
        """How many tokens of the prompt are in the cache, which then has the whole stream."""
        blocks = [(salt, ids[:end]) for end in range(self.block, len(ids) + 1, self.block)]
        found = 0
        while found < len(blocks) and blocks[found] in self.cache and (found + 1) * self.block < prompt:
            found += 1
        self.cache.update(blocks)
        return found * self.block
