"""What SmolLM2-135M-Instruct still knows after play: small sums, asked by lm-evaluation-harness.

    python benchmarks/show_smollm_tasks.py FOLDER      # after show_smollm.py FOLDER; wants the extra `benchmark`

The task is made here: 200 sums of two numbers below 50, four options each, drawn with seed 0; chance is 0.25. It is
asked of the untrained model, of the imitated one and of the adapter after self-play, by `task=benchmark`. Writes
docs/results/smollm_tasks.json: the accuracy of each with its 95 % interval.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from results import record

QUESTIONS, LARGEST, SEED = 200, 50, 0
TASK = """task: small_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


def question(draw: random.Random) -> dict[str, object]:
    """One sum with its answer among three wrong ones near it."""
    one, other = draw.randrange(LARGEST), draw.randrange(LARGEST)
    wrong = draw.sample([one + other + step for step in (-10, -3, -2, -1, 1, 2, 3, 10)], 3)
    options = [one + other, *wrong]
    draw.shuffle(options)
    return {
        "question": f"Question: What is {one} + {other}?\nAnswer:",
        "choices": [str(each) for each in options],
        "answer": options.index(one + other),
    }


def task(folder: Path) -> Path:
    """A folder with the task and its data."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(SEED)
    data = folder / "small_sums.jsonl"
    data.write_text("".join(json.dumps(question(draw)) + "\n" for _ in range(QUESTIONS)))
    (folder / "small_sums.yaml").write_text(TASK.format(data=data, cache=folder / "cache"))
    return folder


def main(folder: Path) -> None:
    include = task((folder / "small_sums").resolve())
    asked = ["task=benchmark", "benchmark=tasks", "benchmark.tasks=[small_sums]", f"benchmark.include={include}"]
    models = {
        "untrained": ["model=smollm2", "hardware=cpu"],
        "trained": [f"run={folder / 'trained'}", "task.which=all"],
    }
    found = {}
    for name, words in models.items():
        where = folder / "tasks" / name
        if not (where / "benchmark.json").exists():
            place = f"resume={where}" if where.exists() else f"hydra.run.dir={where}"
            subprocess.run([sys.executable, "-m", "parley", *asked, *words, place], check=True)
        found[name] = json.loads((where / "benchmark.json").read_text())
    del sys.argv[1]  # results name no folder of this machine
    record("smollm_tasks", {"questions": QUESTIONS, "chance": 0.25, "snapshots": found})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
