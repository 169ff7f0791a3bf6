"""The game on an artificial language: prompts whose real replies are drawn from a grammar with known probabilities.

A prompt names actor, object and time: "two cats , the king , yesterday" is `cats king yesterday`. The real reply
is one sentence about them, such as

    the small old cats that saw a ship quietly followed this king in the garden .

The actor may have a relative clause, across which the verb must agree; the tense is the prompt's; every noun has
frequent and rare adjectives and verbs. So a model must copy, agree at a distance and learn some hundred preferences,
and its distance from the language can be computed exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from ...system.files import InputError
from ...system.seeds import derive, rng
from ..base import Facts, Match, Scenario, Script
from ..splits import fine, split
from .game import METRICS, WRITER, one_reply
from .grammar import Grammar, Rule

NOUNS = (
    "cat", "dog", "king", "queen", "ship", "bird", "horse", "child", "witch", "wolf", "baker", "clock", "giant",
    "nurse", "robot", "tiger",
)  # fmt: skip
PLURALS = {"child": "children", "witch": "witches", "wolf": "wolves"}
VERBS = {  # present singular, present plural, past
    "see": ("sees", "see", "saw"), "follow": ("follows", "follow", "followed"), "find": ("finds", "find", "found"),
    "hear": ("hears", "hear", "heard"), "help": ("helps", "help", "helped"), "catch": ("catches", "catch", "caught"),
    "know": ("knows", "know", "knew"), "fear": ("fears", "fear", "feared"), "like": ("likes", "like", "liked"),
    "push": ("pushes", "push", "pushed"),
}  # fmt: skip
ADJECTIVES = ("small", "old", "red", "quick", "tall", "kind", "quiet", "proud", "strange", "bright", "hungry", "lazy")
ADVERBS = ("quietly", "often", "slowly", "again", "gladly", "twice")
PLACES = ("garden", "harbour", "kitchen", "forest", "tower", "market")
DETERMINERS = {"sg": ("the", "a", "this"), "pl": ("the", "some", "these")}
TIMES = ("today", "yesterday")
VALIDATION, TEST = 0.2, 0.2  # shares of the prompts


class Tales:
    """One seat writes one sentence for a prompt of three words. The payoff is 1 if the grammar accepts it for this
    prompt.

    Scenarios are all 1,920 prompts. Each holds one real `reply`, drawn with `seed`, and its `logprob` in nats under the
    grammar. `seed` also selects the held-out prompts and the nouns' preferences. The n-th of several choices has the
    weight n to the power of -`skew`: 0 is uniform, larger values give a lower entropy.
    """

    name = "tales"
    version = 1
    roles = (WRITER,)
    facts = Facts(
        min_return=0, max_return=1, max_requests=1, max_retries=0,
        metrics={"accepted_rate": "1 if the grammar accepts the reply to this prompt", **METRICS, "score": "the same"},
    )  # fmt: skip

    def __init__(self, seed: int = 0, skew: float = 3.0) -> None:
        if not 0 <= skew <= 100:
            raise InputError(f"skew is {skew}, expected a number from 0 (even choices) to 100")
        self.seed = seed
        self.grammar = Grammar(dict(rules(seed, skew)))

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The prompts of a split, shuffled."""
        return self._splits[split]

    def match(self, scenario: Scenario, seed: int) -> Match:
        """A new match; deterministic."""
        return one_reply(
            scenario,
            lambda text: dict.fromkeys(("accepted_rate", "score"), float(self.logprob(scenario, text) > -math.inf)),
        )

    def scripts(self) -> Mapping[str, Script]:
        """None: the real replies are demonstrations (data=replies)."""
        return {}

    def logprob(self, scenario: Scenario, text: str) -> float:
        """log p(text | prompt) in nats under the grammar; -inf if it is no sentence."""
        return self.grammar.logprob(_symbol(str(scenario.data["messages"][0]["content"])), text.split())

    @cached_property
    def _splits(self) -> Mapping[str, Sequence[Scenario]]:
        found = split({prompt: prompt for prompt in prompts()}, self.seed, VALIDATION, TEST, fine)
        return {name: [self._scenario(prompt) for prompt in chosen] for name, chosen in found.items()}

    def _scenario(self, prompt: str) -> Scenario:
        words = self.grammar.draw(_symbol(prompt), rng(self.seed, "reply", prompt))
        messages = [{"role": "user", "content": prompt}]
        logprob = self.grammar.logprob(_symbol(prompt), words)
        return Scenario(
            f"tales:{prompt.replace(' ', '-')}", {"messages": messages, "reply": " ".join(words), "logprob": logprob}
        )


def prompts() -> Iterator[str]:
    """Every prompt: actor, object, time. The two nouns differ."""
    forms = [(noun, form) for noun in NOUNS for form in (noun, plural(noun))]
    for actor, actors in forms:
        for other, others in forms:
            if actor != other:
                yield from (f"{actors} {others} {time}" for time in TIMES)


def plural(noun: str) -> str:
    """The plural of `noun`."""
    return PLURALS.get(noun, f"{noun}s")


def _symbol(prompt: str) -> str:
    return f"<tale {prompt}>"


def rules(seed: int, skew: float) -> Iterator[tuple[str, Sequence[Rule]]]:
    """The grammar's rules: a symbol <tale PROMPT> for each prompt, and its parts. `seed` draws the nouns'
    preferences."""

    def choice(*parts: tuple[str, ...]) -> list[Rule]:
        return [(number**-skew, part) for number, part in enumerate(parts, 1)]

    def preferred(words: Iterable[str], *names: str) -> list[str]:
        return sorted(words, key=lambda word: derive(seed, "preference", *names, word))

    for prompt in prompts():
        actor, other, time = prompt.split()
        yield (
            _symbol(prompt),
            choice((f"<actor {actor} {time}>", f"<act {actor} {time}>", f"<some {other}>", "<tail>", ".")),
        )
    yield "<tail>", choice(("in", "the", "<place>"), (), ("<adverb>",))
    yield "<adverb>", choice(*((word,) for word in ADVERBS))
    yield "<place>", choice(*((word,) for word in PLACES))
    for number, words in DETERMINERS.items():
        yield f"<determiner {number}>", choice(*((word,) for word in words))
    for noun in NOUNS:
        adjective, verbs = f"<adjective {noun}>", preferred(VERBS, "verb", noun)
        others = preferred((other for other in NOUNS if other != noun), "other", noun)
        yield adjective, choice(*((word,) for word in preferred(ADJECTIVES, "adjective", noun)))
        yield f"<adjectives {noun}>", choice((adjective,), (), (adjective, adjective))
        yield f"<anyone {noun}>", choice(*((f"<some {form}>",) for other in others for form in (other, plural(other))))
        for number, form in (("sg", noun), ("pl", plural(noun))):
            yield f"<some {form}>", choice((f"<determiner {number}>", f"<adjectives {noun}>", form))
            for time in TIMES:
                at = 2 if time == "yesterday" else 0 if number == "sg" else 1
                yield f"<act {form} {time}>", choice(*((VERBS[verb][at],) for verb in verbs))
                clause = (f"<some {form}>", "that", f"<act {form} {time}>", f"<anyone {noun}>")
                yield f"<actor {form} {time}>", choice((f"<some {form}>",), clause)
