"""The plain comparator of play: as the published scripts do it, to measure parley's arena against.

One game at a time, one reply at a time, transformers' own `generate()`, the seat's whole prompt rendered, encoded and
read anew at every turn. Rules, chat template and sampling are the same as parley's.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from parley.games.base import Game, Reply, Request, Result
from parley.models.load import load_model, load_tokenizer
from parley.play.pairing import Seating
from parley.play.player import Sampling


class PlainPlay:
    """Plays games with the model in the folder `path`; `tokens` counts what it sampled."""

    def __init__(self, path: str, sampling: Sampling) -> None:
        self.model, self.tokenizer, self.sampling = load_model(path), load_tokenizer(path), sampling
        self.tokens = 0

    def play(self, game: Game, seatings: Iterable[Seating]) -> list[Result]:
        """The results of the matches, in order."""
        results = []
        for seating in seatings:
            match = game.match(seating.scenario, seating.seed)
            requests = match.start()
            while requests:
                requests = match.step([self._reply(request) for request in requests])
            results.append(match.result())
        return results

    def _reply(self, request: Request) -> Reply:
        chat = [{"role": message.role, "content": message.content} for message in request.messages]
        ids = self.tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        start = ids["input_ids"].shape[1]
        room = self.model.config.max_position_embeddings - start
        if room < 1:
            return Reply(request.id, "", "context")
        length = min(room, request.options.max_tokens or self.sampling.max_tokens, self.sampling.max_tokens)
        with torch.inference_mode():
            (out,) = self.model.generate(
                **ids, do_sample=True, temperature=self.sampling.temperature, top_k=0, max_new_tokens=length
            )
        reply = out[start:]
        self.tokens += len(reply)
        text = self.tokenizer.decode(reply, skip_special_tokens=True)
        return Reply(request.id, text, "stop" if int(reply[-1]) == self.tokenizer.eos_token_id else "length")
