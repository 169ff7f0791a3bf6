"""Scores of an answer: exact match and F1 after normalisation, as in HotpotQA's official script, and the rewards of the
tasks as in FireAct (arXiv:2310.05915)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Form: TypeAlias = Literal["corrected", "faithful"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_VERDICTS = ("yes", "no", "noanswer")


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and surplus white space (SQuAD's normalisation)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(answer: str, gold: str) -> float:
    """1 if both are equal after `normalise` (EM), else 0."""
    return float(normalise(answer) == normalise(gold))


def f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall of the words (with multiplicity) after `normalise`.

    0 if one of them is yes, no or noanswer and the other differs.
    """
    one, other = normalise(answer), normalise(gold)
    if one != other and (one in _VERDICTS or other in _VERDICTS):
        return 0.0
    words, wanted = Counter(one.split()), Counter(other.split())
    shared = (words & wanted).total()
    return 2 * shared / (words.total() + wanted.total()) if shared else 0.0


def starts(answer: str, gold: str) -> float:
    """1 if the answer begins with the gold one, as published: "not sure" counts as no, "a horse" as option A."""
    return float(answer.lower().startswith(gold.lower()))


def verdict(answer: str, gold: str) -> float:
    """1 if the answer's first word is the gold one, yes or no."""
    return float(re.match(rf"\W*{re.escape(gold)}\b", answer, re.IGNORECASE) is not None)


def option(answer: str, gold: str) -> float:
    """1 if the answer is the gold letter, alone or before a full stop, colon or bracket and the option's text."""
    return float(
        re.fullmatch(rf"\s*\(?{re.escape(gold)}\)?\s*([.:)].*)?", answer, re.IGNORECASE | re.DOTALL) is not None
    )


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of question: its reward in both forms, and whether F1 applies to its answers."""

    corrected: Callable[[str, str], float]
    faithful: Callable[[str, str], float]
    words: bool = False

    def score(self, answer: str | None, golds: Sequence[str], form: Form) -> dict[str, float]:
        """The maximum over all gold answers of the reward `em` and, if it applies, of `f1`; 0 for no answer."""
        reward = self.corrected if form == "corrected" else self.faithful
        measures = {"em": reward, **({"f1": f1} if self.words else {})}
        return {
            name: 0.0 if answer is None else max(measure(answer, gold) for gold in golds)
            for name, measure in measures.items()
        }


TASKS: Mapping[str, Task] = {
    "hotpotqa": Task(exact, exact, words=True),
    "bamboogle": Task(exact, exact, words=True),
    "strategyqa": Task(verdict, starts),
    "mmlu": Task(option, starts),
}
