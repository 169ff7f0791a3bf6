"""Search in real documents: StrategyQA's gold facts among Wikipedia's vital articles, padded with made ones to size.

    python benchmarks/show_search.py DATA            # its agent_qa/strategyqa_dev.json, wiki_vital/vital4_en.jsonl.gz
    python benchmarks/show_search.py DATA --sizes 10627 100000

Measured for each size: seconds to build the index, its size, CPU milliseconds of a query (p50, p95), recall@5 (share of
a question's gold facts among the first five documents, mean over the questions), and the memory that the queries take.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from parley.games.qa.search import Document, Index
from parley.report.estimates import estimate
from results import record

SIZES = (10_627, 100_000)


def questions(data: Path) -> list[dict[str, Any]]:
    """StrategyQA's development set."""
    found: list[dict[str, Any]] = json.loads((data / "agent_qa/strategyqa_dev.json").read_text())
    return found


def documents(data: Path, size: int) -> Iterator[Document]:
    """Gold facts, articles, and word salad of the articles' words up to `size`."""
    facts = {fact: each["term"] for each in questions(data) for fact in each["facts"]}
    with gzip.open(data / "wiki_vital/vital4_en.jsonl.gz", "rt") as file:
        articles = [(each["title"], each["text"]) for each in map(json.loads, file)]
    real = [*((term, fact) for fact, term in facts.items()), *articles]
    yield from real[:size]
    words, chance = [word for _, text in articles[:2000] for word in text.split()], Random(0)
    for _ in range(size - len(real)):
        yield chance.choice(words), " ".join(chance.choices(words, k=77))  # as long as the articles on average


def measured(data: Path, size: int, folder: Path) -> dict[str, Any]:
    """The figures of one size."""
    corpus = folder / f"{size}.jsonl"
    with open(corpus, "w") as file:
        for title, text in documents(data, size):
            file.write(json.dumps({"title": title, "text": text}) + "\n")
    begun = time.process_time()
    index = Index.beside(corpus)
    built = time.process_time() - begun
    before = memory()
    times, recall = [], []
    for each in questions(data):
        begun = time.process_time()
        found = set(index.search(each["question"], 5))
        times.append(1000 * (time.process_time() - begun))
        recall.append(len(found & set(each["facts"])) / len(set(each["facts"])))
    ordered = sorted(times)
    (file_of,) = folder.glob(f"{size}.jsonl.*.sqlite")
    return {
        "documents": size, "build_cpu_s": round(built, 2), "index_mb": round(file_of.stat().st_size / 1e6, 1),
        "p50_ms": round(ordered[len(ordered) // 2], 2), "p95_ms": round(ordered[len(ordered) * 95 // 100], 2),
        "recall_at_5": estimate(recall, range(len(recall))).to_json(), "queries_memory_mb": round(memory() - before, 1),
    }  # fmt: skip


def memory() -> float:
    """Resident memory of the process in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measured(given.data, size, Path(folder)) for size in given.sizes]
    for row in rows:
        print(row)
    record("search", {"sizes": rows})


if __name__ == "__main__":
    main()
