"""Creates a small Llama with random weights and a word-level tokenizer from the game's own text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..games.base import Message
from ..system.bounds import Count
from ..system.seeds import derive
from . import snapshot
from .snapshot import Snapshot

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

PAD, UNK, BOS, END = "<pad>", "<unk>", "<bos>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL = (PAD, UNK, BOS, *ROLES, END)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' "
    "}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Tiny:
    """A model source: a Llama of these sizes, initialised from the seed and saved as a Hugging Face folder.

    Every word between white space is one token, including numbers and tags such as `[propose]`; white space, with its
    line breaks, is not kept. A word that occurs fewer than `min_count` times is `<unk>`. A message takes its words
    plus two tokens, and a rendered chat is always a prefix of the longer one. `context` is in tokens.
    """

    width: Count = 128
    heads: Count = 4
    layers: Count = 3
    mlp: Count = 256
    context: Count = 512
    min_count: Count = 1
    tie: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}")
        if self.mlp % 64 or self.width % 32:
            raise ValueError(
                f"mlp {self.mlp} must be a multiple of 64 and width {self.width} of 32, as 4-bit layers need"
            )

    def create(self, folder: Path, conversations: Iterable[Sequence[Message]], seed: int) -> Snapshot:
        """Builds tokenizer, template and weights from the texts and `seed` and writes them to `folder`."""
        import torch
        from transformers import GenerationConfig, LlamaForCausalLM

        tokenizer = word_tokenizer(conversations, self.min_count)
        config = self._config(len(tokenizer))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "tiny"))
            model = LlamaForCausalLM(config)
        end = SPECIAL.index(END)
        never = [id for id in range(len(SPECIAL)) if id != end] + list(range(len(tokenizer), config.vocab_size))
        model.generation_config = GenerationConfig(
            bos_token_id=SPECIAL.index(BOS), eos_token_id=end, pad_token_id=SPECIAL.index(PAD), suppress_tokens=never
        )
        return snapshot.save(model, tokenizer, folder, "tiny")

    def _config(self, words: int) -> LlamaConfig:
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=-(-words // 32) * 32,
            hidden_size=self.width,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            max_position_embeddings=self.context,
            tie_word_embeddings=self.tie,
            bos_token_id=SPECIAL.index(BOS),
            eos_token_id=SPECIAL.index(END),
            pad_token_id=SPECIAL.index(PAD),
        )


def word_tokenizer(conversations: Iterable[Sequence[Message]], min_count: int = 1) -> PreTrainedTokenizerFast:
    """A tokenizer of the words in `conversations`, most frequent first, with a chat template that has the prefix
    property.

    ValueError if no word is frequent enough.
    """
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    counts = Counter(word for chat in conversations for message in chat for word in message.content.split())
    words = sorted(
        (word for word, n in counts.items() if n >= min_count and word not in SPECIAL),
        key=lambda word: (-counts[word], word),
    )
    if not words:
        raise ValueError(
            f"no word occurs {min_count} times in the {len(counts)} words of the given texts: the model would know none"
        )
    core = Tokenizer(WordLevel({token: id for id, token in enumerate((*SPECIAL, *words))}, unk_token=UNK))
    core.pre_tokenizer = WhitespaceSplit()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, unk_token=UNK, bos_token=BOS, eos_token=END,
        chat_template=TEMPLATE, clean_up_tokenization_spaces=False,
    )  # fmt: skip
