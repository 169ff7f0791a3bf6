"""What the benchmarks train on: made episodes in SPAG's layout, and Llamas with random weights."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from parley.data.sample import Sample, Utterance, decayed
from parley.system.seeds import rng
from transformers import LlamaConfig

FIRST = 7  # ids below are special tokens


@dataclass(frozen=True)
class Dialogues:
    """Matches in which two seats take turns; each match gives one seat's `turns` replies, a sample for each.

    A sample is the rules, the history before the reply, an instruction and the reply, which alone is supervised (SPAG,
    arXiv:2404.10642: its prompts). So the history is a trunk and every instruction with its reply a branch. All
    lengths are in tokens; a reply's is drawn from `reply`. `rule_texts` is how many different rules there are: 0 gives
    each match its own, so that matches share nothing.
    """

    matches: int
    turns: int
    rules: int = 230
    reply: tuple[int, int] = (20, 60)
    instruction: int = 32
    vocab: int = 2000
    rule_texts: int = 0

    def samples(self, seed: int = 0) -> list[Sample]:
        return [sample for match in range(self.matches) for sample in self._match(seed, match)]

    def _match(self, seed: int, match: int) -> Iterator[Sample]:
        draw = rng(seed, "match", match)
        rules = self._text(rng(seed, "rules", match % self.rule_texts if self.rule_texts else match), self.rules)
        instruction = self._text(rng(seed, "instruction"), self.instruction)
        sign, second = draw.choice((1.0, -0.5)), draw.randrange(2)
        history = rules
        for turn in range(2 * self.turns):
            reply = self._text(draw, draw.randint(*self.reply))
            if turn % 2 == second:
                ids = (*history, *instruction, *reply)
                span = Utterance(len(ids) - len(reply), len(ids), reward=sign * decayed(self.turns, 0.8)[turn // 2])
                yield Sample(f"{match}/{turn}", ids, (span,), group=f"match {match}")
            history = (*history, *reply)

    def _text(self, draw: random.Random, tokens: int) -> tuple[int, ...]:
        return tuple(draw.randrange(FIRST, self.vocab) for _ in range(tokens))


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama. `heads` query heads share `kv_heads` keys and values."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    tie: bool = False

    def config(self, context: int = 8192) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=self.vocab, hidden_size=self.width, intermediate_size=self.mlp, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.kv_heads, max_position_embeddings=context,
            tie_word_embeddings=self.tie, bos_token_id=2, eos_token_id=6, pad_token_id=0,
        )  # fmt: skip

    @property
    def block_weights(self) -> int:
        """Weights of all blocks' matrices: what a token is multiplied with besides the head."""
        attention = 2 * self.width**2 + 2 * self.width * (self.width // self.heads) * self.kv_heads
        return self.layers * (attention + 3 * self.width * self.mlp)


SMALL = Shape(width=256, layers=4, heads=4, kv_heads=2, mlp=704, vocab=2000, tie=True)  # 3.4 million weights


@dataclass(frozen=True)
class Profile:
    """A hardware profile as the learner reads it, for machines without Hydra."""

    accelerator: str = "cpu"
    devices: int = 1
    nodes: int = 1
    strategy: str = "single"
    precision: str = "32-true"
    threads: int = 1
    micro_tokens: int = 1024
    row_tokens: int = 2048
    head_chunk: int = 1024
    activation_checkpointing: bool = False
