"""What a report says of three runs, what it costs, how large it grows, and how its pages look in a browser.

    python benchmarks/show_report.py [DIR]

Three runs of the example game safecracker: one that learns, one whose learning rate is next to nothing, one whose
learning rate ruins the model; each has to bear the right verdict. The report's own CPU seconds are held against those
of the run that it was written in. A run of 100 iterations, one of 10 and a sweep of 24 jobs are made from the first
run's records; their pages have to stay below 5 MB and 20,000 nodes, and the long run's has to load within three times
the short one's. Then every page is looked at in Chromium (chromium, chromium-driver; selenium and axe-core-python from
the extra `browser`), on a desktop and on a phone of 360 pixels, light and dark, everything unfolded: nothing may
scroll sideways, stick out, be cut or overlap, and axe-core (contrast of WCAG AA included) may find nothing serious. A
sweep of 2 x 2 jobs has to make demonstrations, base and start once for each seed, and its jobs to have the figures of
runs apart. Pictures go to DIR/pictures. Writes docs/results/report.json; exits with 1 if anything fails.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import browsers
from parley.report.html import write
from parley.report.overview import write as write_overview
from parley.report.run import summary
from parley.report.settings import settings
from parley.report.verdict import verdicts
from results import ROOT, record

RUNS = {
    "better": [],
    "unclear": ["learner.optimizer.lr=1e-12"],
    "worse": ["learner.optimizer.lr=0.5", "objective.credit.keep=all"],
}
COST, BYTES, NODES, LOADING = 0.02, 5_000_000, 20_000, 3.0
SEEDS, SETTINGS = 3, 8  # of the sweep


def run(folder: Path, words: list[str]) -> Path:
    """A run of the example game, unless it is there."""
    if not (folder / "summary.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "parley", "--config-dir", "conf", "experiment=safecracker", "iterations=3"]
        subprocess.run([*command, *words, f"hydra.run.dir={folder}"], cwd=ROOT / "examples", check=True)
    return folder


def cost(folder: Path) -> dict[str, float]:
    """The report's CPU seconds inside a run, and their share of the run's."""
    text = (folder / "log.txt").read_text(encoding="utf-8")
    times, seconds = re.findall(r"report: written (\d+) times in ([\d.]+) CPU-s", text)[-1]
    whole = summary(folder).cpu_seconds
    return {"times": int(times), "cpu_seconds": float(seconds), "share": round(float(seconds) / whole, 4)}


def moved(data: dict[str, Any], by: float, seed: int) -> None:
    """Moves every figure of the test split a little, so that no two are alike."""
    draw = random.Random(seed)
    for row in data["iterations"]:
        for own in row["policies"].values():
            for mode in ("sampled", "greedy"):
                for each in own[mode].values():
                    shift = by * row["iteration"] + draw.uniform(-0.05, 0.05)
                    each.update({end: each[end] + shift for end in ("mean", "low", "high") if each[end] is not None})


def long(source: Path, folder: Path, iterations: int) -> Path:
    """A run of many iterations, from the records of a short one."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("iter_*", "report"))
    data = json.loads((source / "summary.json").read_text())
    rows, last = data["iterations"], len(data["iterations"]) - 1
    for at in range(len(rows), iterations + 1):
        rows.append({**json.loads(json.dumps(rows[1 + at % last])), "iteration": at, "round": at})
    moved(data, 0.001, iterations)
    data["best"] = iterations
    (folder / "summary.json").write_text(json.dumps(data))
    for at in range(iterations + 1):
        of = source / f"iter_{min(at, 1 + at % last) if at else 0:03d}"
        to = folder / f"iter_{at:03d}"
        for part in ("eval/sampled", "eval/greedy"):
            shutil.copytree(of / part, to / part)
        for path in of.glob("learn/*/learn.json"):
            (to / path.relative_to(of)).parent.mkdir(parents=True)
            shutil.copy(path, to / path.relative_to(of))
    return write(folder)


def sweep(source: Path, folder: Path) -> Path:
    """A sweep, from the summary of one run."""
    shutil.rmtree(folder, ignore_errors=True)
    jobs = []
    for job in range(SEEDS * SETTINGS):
        setting, seed = divmod(job, SEEDS)
        data = json.loads((source / "summary.json").read_text()) | {"seed": seed}
        moved(data, 0.02 * setting, job)
        at = folder / str(job)
        (at / ".hydra").mkdir(parents=True)
        (at / "summary.json").write_text(json.dumps(data))
        words = [f"seed={seed}", f"learner.optimizer.lr={0.001 * (1 + setting):g}", "experiment=safecracker"]
        (at / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
        jobs.append(at)
    return write_overview(folder, "sweep", "A sweep over learning rates", settings(jobs))


def seen(name: str, page: Path, pictures: Path) -> dict[str, Any]:
    """What a browser makes of a page: nodes, and what is wrong with it."""
    browser = browsers.Browser(page.resolve().as_uri())
    try:
        nodes = browser.driver.execute_script("return document.querySelectorAll('*').length")
        faults = []
        for scheme in ("light", "dark"):
            for screen in browsers.WIDTHS:
                faults += browser.look(scheme, screen, pictures / f"{name}-{scheme}-{screen}.png")
            faults += browser.accessible()
        browser.driver.execute_script(
            "document.querySelectorAll('details').forEach(each => { each.open = true; });"
            "const lanes = document.getElementById('lanes'); if (lanes) lanes.click();"
        )
        for screen in browsers.WIDTHS:
            faults += browser.look("light", screen)
        return {"bytes": page.stat().st_size, "nodes": nodes, "faults": faults + browser.errors()}
    finally:
        browser.quit()


LOADED = "const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd - t.startTime"


def loading(pages: dict[str, Path], times: int = 7) -> dict[str, float]:
    """The median milliseconds until each page is loaded, taken in turns."""
    browser, taken = browsers.Browser("about:blank"), {name: list[float]() for name in pages}
    try:
        for _ in range(times):
            for name, page in pages.items():
                browser.driver.get(page.resolve().as_uri())
                taken[name].append(float(browser.until(lambda: browser.driver.execute_script(LOADED))))
    finally:
        browser.quit()
    return {name: round(statistics.median(each), 1) for name, each in taken.items()}


def shared(folder: Path) -> dict[str, Any]:
    """A sweep of two seeds and two learning rates: what its jobs made themselves, and whether the figures of those that
    took the start of another are the same as apart."""
    small = [
        "experiment=safecracker",
        "iterations=1",
        "imitate.matches=400",
        "eval.scenarios=16",
        "eval.validation=16",
        "eval.opponents=[]",
    ]
    words = ["seed=0,1", "learner.optimizer.lr=1e-3,2e-3"]
    command = [sys.executable, "-m", "parley", "--config-dir", "conf"]
    if not (folder / "sweep.html").exists():
        shutil.rmtree(folder, ignore_errors=True)
        swept = [*command, "--multirun", *small, *words, f"hydra.sweep.dir={folder}"]
        subprocess.run(swept, cwd=ROOT / "examples", check=True)
    logs = {job: (folder / str(job) / "log.txt").read_text(encoding="utf-8") for job in range(4)}
    made = {stage: sum(f"{stage}: shared with job" not in text for text in logs.values()) for stage in STAGES}
    same = {}
    for job, own in ((1, ["seed=0", "learner.optimizer.lr=2e-3"]), (3, ["seed=1", "learner.optimizer.lr=2e-3"])):
        apart = folder.with_name(f"{folder.name}_apart_{job}")
        if not (apart / "summary.json").exists():
            subprocess.run([*command, *small, *own, f"hydra.run.dir={apart}"], cwd=ROOT / "examples", check=True)
        same[f"job {job}"] = figures_of(apart) == figures_of(folder / str(job))
    return {"made": made, "same": same}


STAGES = ("iter_000/demonstrations/train", "iter_000/base", "iter_000/start")


def figures_of(folder: Path) -> Any:
    """A run's summary without what it cost."""
    return _timeless(json.loads((folder / "summary.json").read_text(encoding="utf-8")))


def _timeless(value: Any) -> Any:
    timed = ("seconds", "cpu_seconds", "tokens_per_second", "reference_seconds")
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in timed}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/show_report").resolve()
    runs = {word: run(folder / word, words) for word, words in RUNS.items()}
    told = {word: next(verdicts(summary(path))) for word, path in runs.items()}
    pages = {
        "report": runs["better"] / "report" / "index.html",
        "iterations_10": long(runs["better"], folder / "iterations_10", 10),
        "iterations_100": long(runs["better"], folder / "iterations_100", 100),
        "sweep_24": sweep(runs["better"], folder / "sweep_24"),
    }
    (folder / "pictures").mkdir(exist_ok=True)
    looks = {name: seen(name, page, folder / "pictures") for name, page in pages.items()}
    loads = loading({name: pages[name] for name in ("iterations_10", "iterations_100")})
    spent = cost(runs["better"])
    sweep_of_four = shared(folder / "shared")
    ratio = round(loads["iterations_100"] / loads["iterations_10"], 2)
    wrong = [f"{word}: {each.word}" for word, each in told.items() if each.word != word]
    wrong += [f"{name}: {fault}" for name, look in looks.items() for fault in look["faults"]]
    wrong += [name for name, look in looks.items() if look["bytes"] >= BYTES or look["nodes"] >= NODES]
    wrong += [f"{stage}: made {count} times" for stage, count in sweep_of_four["made"].items() if count != 2]
    wrong += [f"{job}: other figures than apart" for job, same in sweep_of_four["same"].items() if not same]
    wrong += ["the report costs too much"] * (spent["share"] > COST) + ["the long page loads slowly"] * (
        ratio > LOADING
    )
    figures = {
        "verdicts": {word: each.text for word, each in told.items()},
        "cost": spent,
        "pages": looks,
        "loading": {"ratio": ratio, "milliseconds": loads},
        "sweep_2x2": sweep_of_four,
        "wrong": wrong,
    }
    print(json.dumps(figures, indent=2))
    record("report", figures)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
