"""The agent's prompts before its first step, in three wordings (`prompt`) and three layouts (`layout`).

    compact     a few words, for tiny models and models that were fine-tuned on the protocol
    full        the whole protocol
    published   the content of FireAct's prompts (arXiv:2310.05915), in our words

    chat        the instructions are the system message, the question is the first user message
    alpaca      only the question, in the wrapper of Stanford Alpaca, as for FireAct's fine-tuned models
    few_shot    instructions, worked examples and the question in one user message

Observations are user messages in every layout, so views only grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from .examples import EXAMPLES
from .grammar import FINISH

Wording: TypeAlias = Literal["compact", "full", "published"]
Layout: TypeAlias = Literal["chat", "alpaca", "few_shot"]
WORDINGS: tuple[Wording, ...] = ("compact", "full", "published")
LAYOUTS: tuple[Layout, ...] = ("chat", "alpaca", "few_shot")
SHOTS = 4  # maximum examples per task, as published (MMLU has three)

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{question}\n\n### Response:"
)
GOALS: Mapping[str, str] = {
    "hotpotqa": "The answer is a name, a date, a number, yes or no: as short as possible.",
    "bamboogle": "The answer is a name, a date or a number: as short as possible.",
    "strategyqa": "The answer is yes or no.",
    "mmlu": "The answer is the letter of the right option.",
}
ASKED: Mapping[str, str] = {"strategyqa": "Yes or no: ", "mmlu": "Single choice: "}  # in few_shot, as published


def opening(question: str, task: str, tools: Mapping[str, str], prompt: Wording, layout: Layout) -> tuple[str, str]:
    """(system message or "", first user message). `tools` maps each tool to its description."""
    if layout == "alpaca":
        return "", ALPACA.format(question=question)
    told = instructions(task, tools, prompt)
    if layout == "chat":
        return told, question
    asked = ASKED.get(task, "Question: ")
    shown = EXAMPLES["hotpotqa" if task == "bamboogle" else task][:SHOTS]
    worked = [f"{asked}{example.strip()}" for example in shown]
    return "", "\n\n".join([told, "Examples:", *worked, f"{asked}{question.removeprefix('Question: ')}"])


def instructions(task: str, tools: Mapping[str, str], prompt: Wording) -> str:
    """The instructions on actions."""
    actions = [f"{name}[…]" for name in (*tools, FINISH)]
    if prompt == "compact":
        return f"Action: {' or '.join(actions)}"
    lines = [f"- {name}[…]: {says}" for name, says in tools.items()] + [f"- {FINISH}[…]: gives the answer and ends."]
    if prompt == "published":
        head = "Solve a question in steps of Thought, Action and Observation. These are the actions:"
        return "\n".join([head, *lines, "A search gives one snippet, in which the answer may be missing."])
    return "\n".join(
        [
            "Answer a question with the help of tools. Each of your replies has two lines:",
            "Thought: what you know and what you still need",
            f"Action: one of {', '.join(actions)}, with the argument in the brackets",
            "You are then told the observation, and reply again. These are the actions:",
            *lines,
            "An argument has one line and no brackets. Do not write observations yourself.",
            GOALS[task],
        ]
    )
