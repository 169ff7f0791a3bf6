"""How many utterances each judge of Adversarial Taboo rules on in a second, on one core.

    python benchmarks/show_judges.py

The utterances are those of scripted matches, of short chat and of long texts with and without the word, in equal parts;
every word has its own judge, made once. Exits with 1 where a million utterances would take a judge more than a minute.
"""

from __future__ import annotations

import re
import sys
import time
from random import Random

from parley.games.taboo.judges import JUDGES, ruling
from parley.games.taboo.lexicon import lexicon
from results import record

WORDS, EACH = 300, 100
TALK = (
    "well let me think about that for a moment because there is a lot that could be said and nothing of it is quite "
    "certain"
)
FILLER = tuple(re.findall("[a-z]+", TALK))


def utterances(chance: Random) -> list[tuple[str, str, str]]:
    """(word, seat, text), word after word as matches would come."""
    world = lexicon()
    found = []
    for word in chance.sample(sorted(world.cues), WORDS):
        for number in range(EACH):
            other = chance.choice(sorted(world.cues))
            texts = (
                world.say("it", chance.choice(world.cues[word])),
                " ".join(chance.choices(FILLER, k=12)).capitalize() + "?",
                " ".join(
                    [*chance.choices(FILLER, k=60), word if number % 8 == 0 else other, *chance.choices(FILLER, k=60)]
                ),
                f"I know the word! It is {word if number % 3 == 0 else other}.",
            )
            found.append((word, ("attacker", "defender")[number % 2], texts[number // 2 % 4]))
    return found


def main() -> None:
    told = utterances(Random(0))
    figures: dict[str, float] = {}
    for name, make in JUDGES.items():
        for word, _, _ in told:
            make(word)
        start = time.process_time()
        ruled = sum(ruling(make(word), seat, text) is not None for word, seat, text in told)
        figures[name] = round(len(told) / (time.process_time() - start))
        print(f"{name:8s} {figures[name]:>9,} utterances a CPU-second ({ruled / len(told):.0%} decide a match)")
    record("judges", {"utterances": len(told), "per_cpu_second": figures})
    sys.exit(0 if min(figures.values()) >= 1e6 / 60 else 1)


if __name__ == "__main__":
    main()
