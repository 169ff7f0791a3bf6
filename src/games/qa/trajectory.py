"""An expert's trajectory in the format of FireAct's fine-tuning rows (Alpaca layout): {"instruction": question,
"input": "", "output": steps}.

A step is a thought, an action and an observation, each behind its label at the start of a line. The last observation is
the line with the reward, which the agent does not see. In MMLU's rows the options are at the beginning of `output`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..base import Json

_STEP = re.compile(r"\nObservation: ?")
_NEXT = re.compile(r"\n(?=(?:Thought|Action):)")
_OPTIONS = re.compile(r"(?:A\. .*?\n)(?=Thought:|Action:)", re.DOTALL)
_FINISH = re.compile(r"Action: *finish\[(.*)\]\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A question, the agent's reply at each step, and the observation after each."""

    question: str
    replies: tuple[str, ...]
    observations: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The argument of the last reply, the answer. ValueError without an answer."""
        found = _FINISH.search(self.replies[-1]) if self.replies else None
        if found is None:
            raise ValueError("the trajectory has no answer: its last action is not finish[…]")
        return found[1].strip()

    @property
    def task(self) -> str:
        """The published task, recognised by the layout."""
        if self.question.startswith("Question:"):
            return "mmlu"
        told = self.observations[-1] if self.observations else ""
        return "hotpotqa" if re.search("= (True|False)", told) else "strategyqa"

    @property
    def text(self) -> str:
        """The steps as one text, a line break after each; `from_text` reads it."""
        steps = zip(self.replies, self.observations, strict=True)
        return "".join(f"{reply}\nObservation: {seen}\n" for reply, seen in steps)


def from_row(row: Mapping[str, Json]) -> Trajectory:
    """Reads a row. ValueError, KeyError or TypeError for what is none."""
    question, output = row["instruction"], row["output"]
    if not (isinstance(question, str) and isinstance(output, str)):
        raise ValueError('expected text as "instruction" and "output"')
    if options := _OPTIONS.match(output):
        question, output = f"{question}\n{options[0]}".removesuffix("\n"), output[options.end() :]
    return from_text(question, output)


def to_row(expert: Trajectory) -> dict[str, Json]:
    """What `from_row` read: the question's first line is the instruction, its others begin the output, as published."""
    first, newline, options = expert.question.partition("\n")
    return {"instruction": first, "input": "", "output": f"{options}{newline}{expert.text}"}


def from_text(question: str, text: str) -> Trajectory:
    """Reads the steps of `text`."""
    first, *rest = _STEP.split(text.rstrip("\n"))
    replies, observations = [first], []
    for part in rest:
        following = _NEXT.search(part)
        observations.append(part[: following.start()] if following else part)
        if following:
            replies.append(part[following.end() :])
    return Trajectory(question, tuple(replies), tuple(observations))
