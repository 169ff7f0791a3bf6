"""People at the table in real browsers: Deal, Taboo and a social scene to the end, and a match against a model.

    python benchmarks/show_table.py FOLDER [browsers] [hostile] [load] [watch] [search]

FOLDER gets the runs that are served (a model that imitated for a moment), the pictures, and the figures of each part.
Parts may be run one by one: of the others the recorded figures stay, with the revision that they are of.

browsers  Headless Chromiums play: illegal replies and their correction, a page that is reloaded, a closed tab, a server
          that is killed (kill -9) and started again in the middle. No match is lost, every record replays, scores are
          those of the rules, no page scrolls sideways, overlaps or cuts text at 1200 and 360 pixels, light and dark,
          and axe-core finds nothing serious. Needs Debian's chromium and chromium-driver, and the extra `browser`.
hostile   200 hostile requests in the middle of a match: one refusal each, and the match goes on.
load      8 and then 64 scripted people at once against the model: no event is lost, seconds from a reply to the next
          question, the server's memory.
watch     A small run is watched while it runs, in a browser: its state, then its report, which works in its sandbox,
          and a search in its matches.
search    The first page of a watcher, and searches by outcome and metric, among 100,000 matches and among 1,000:
          seconds, and the server's memory.

Exits with 1 where one of these fails.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from browsers import WIDTHS, Browser, Person
from omegaconf import OmegaConf
from parley.data.store import Matches
from parley.system.files import read_json, write_json
from results import ROOT, record, revision

PARTS = ("browsers", "hostile", "load", "watch", "search")
RECORDED = ROOT / "docs" / "results" / "table.json"
SMALL = ("debug=fast", "iterations=0", "imitate.matches=64", "imitate.validation=4")
RUNS = {
    "deal": ("task=imitate", "debug=fast"),
    "taboo": ("experiment=spag_tiny", "task=imitate", *SMALL),
    "social": ("experiment=social_tiny", "task=imitate", *SMALL),
}


class Table:
    """A server of its own process, which can be killed and started again at the same address."""

    def __init__(self, run: Path, *words: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.run, self.words = run, words
        self.start()

    def start(self) -> None:
        words = ["task=table", f"run={self.run}", f"table.port={self.port}", *self.words]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "parley", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline() for _ in range(1 + any("watched" in word for word in self.words))]
        found = [each for line in lines for each in re.findall(r"http://\S+", line)]
        assert found, "the table did not start"
        self.link, self.watchers = found[0], found[-1]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def made(folder: Path) -> dict[str, Path]:
    """The runs that are served, made where they are not there."""
    for name, words in RUNS.items():
        if not (folder / name / "iter_000/start/stage.json").exists():
            command = [
                sys.executable,
                "-m",
                "parley",
                *words,
                f"hydra.run.dir={folder / name}",
                f"resume={folder / name}",
            ]
            (folder / name).mkdir(parents=True, exist_ok=True)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return {name: folder / name for name in RUNS}


def replayed(run: Path, seen: int) -> dict[str, Any]:
    """Replays every match of the table; says what they were worth."""
    from hydra.utils import instantiate
    from parley.data.replay import replay

    game = instantiate(OmegaConf.load(run / "config.yaml").game)
    stored = Matches(run / "table" / "play")
    for episode in stored:
        replay(game, episode)
    assert len(stored) == seen, f"{len(stored)} matches are stored, {seen} were played"
    return {
        "matches": len(stored),
        "turns": sum(len(each.turns) for each in stored),
        "refused": sum(len(each.refused(seat)) for each in stored for seat in each.players),
        "outcomes": [each.result.outcome for each in stored],
        "returns": [dict(each.result.returns) for each in stored],
    }


def pictures(person: Person, name: str, folder: Path) -> list[str]:
    """Looks at a page on every screen in both colour schemes; what is wrong."""
    faults = []
    for screen in WIDTHS:
        for scheme in ("light", "dark"):
            found = person.look(scheme, screen, folder / f"{name}-{screen}-{scheme}.png") + person.accessible()
            faults += [f"{name}, {screen}, {scheme}: {each}" for each in found]
    person.look("light", "desktop")
    return faults


def together(table: Table) -> tuple[Person, Person]:
    """Two people who sit down: who begins, and the other."""
    people = Person(table.link), Person(table.link)
    for person in people:
        person.click("#sit")
    people[0].until(lambda: any("your turn" in each.status for each in people))
    return people if "your turn" in people[0].status else (people[1], people[0])


def deal(run: Path, shots: Path) -> dict[str, Any]:
    """Two people: a proposal that comes too early, a reload, a closed tab, kill -9 between two turns."""
    table, faults = Table(run, "table.parts.play.partner=null"), []
    one, two = together(table)
    faults += pictures(one, "deal-asked", shots)
    one.click("fieldset button")
    one.says("Your reply was not accepted")
    faults += pictures(one, "deal-refused", shots)
    one.write("<img src=x onerror=document.title='obeyed'> the hats for me\n")
    two.says("the hats for me")
    one.driver.refresh()
    one.says("the hats for me")
    assert "<img src=x" in two.text and "obeyed" not in two.driver.title
    two.driver.get("about:blank")  # the tab is closed
    time.sleep(1.0)
    table.kill()
    table.start()
    two.driver.get(two.url)
    two.says("the hats for me")
    faults += pictures(two, "deal-again", shots)
    items = [each.get_attribute("name") for each in two.until(lambda: two.all("select"))]
    for item in items:
        options = two.all(f"select[name='{item}'] option")
        two.choose(item, options[-1].get_attribute("value"))
    two.click("fieldset button")
    one.until(lambda: "your turn" in one.status)
    table.kill()  # while a question is open at a page that is not reloaded
    one.says("connection is lost")
    table.start()
    one.until(lambda: "your turn" in one.status)
    one.click("fieldset button")
    for person in (one, two):
        person.says("It ended with: agreement")
    faults += pictures(two, "deal-over", shots)
    said = [float(each.text.partition(": ")[2]) for each in (one.all("#over .big")[0], two.all("#over .big")[0])]
    errors = one.errors() + two.errors()
    one.quit(), two.quit()
    found = replayed(run, 1) | {"stopped_with": table.stop()}
    assert said == [found["returns"][0]["first"], found["returns"][0]["second"]], said
    return found | {"faults": faults, "console": errors, "kills": 2, "reloads": 1, "closed_tabs": 1}


def taboo(run: Path, shots: Path) -> dict[str, Any]:
    """Two people: the attacker leads, the defender says the word in passing, and loses."""
    table = Table(run, "table.parts.play.partner=null")
    one, two = together(table)
    one.says("The word:")
    word = one.all("#board .big")[0].text
    assert word not in two.text
    faults = pictures(one, "taboo-asked", shots)
    one.write("what do you think of when you are outside\n")
    two.until(lambda: "your turn" in two.status)
    two.write(f"perhaps of {word}\n")
    for person in (one, two):
        person.says("It ended with: ")
    faults += pictures(two, "taboo-over", shots)
    errors = one.errors() + two.errors()
    one.quit(), two.quit()
    return replayed(run, 1) | {"stopped_with": table.stop(), "faults": faults, "console": errors}


def social(run: Path, shots: Path) -> dict[str, Any]:
    """Two people: one says nothing, which is no action, then speaks; the other leaves."""
    table = Table(run, "table.parts.play.partner=null")
    one, two = together(table)
    one.says("The goal:")
    faults = pictures(one, "social-asked", shots)
    one.click("#reply button")
    one.says("Your reply was not accepted")
    one.write("hello my friend")
    one.click("#reply button")
    two.says("hello my friend")
    two.choose("kind", "leave")
    two.click("#reply button")
    for person in (one, two):
        person.says("It ended with: left")
    faults += pictures(one, "social-over", shots)
    errors = one.errors() + two.errors()
    one.quit(), two.quit()
    return replayed(run, 1) | {"stopped_with": table.stop(), "faults": faults, "console": errors}


def against(run: Path, shots: Path) -> dict[str, Any]:
    """A person and what the run trained; the server is killed in the middle."""
    table = Table(run, "table.parts.play.partner=players")
    one = Person(table.link)
    one.click("#alone")
    faults, kills = [], 0
    one.until(lambda: "your turn" in one.status or "It ended" in one.text)
    while "It ended" not in one.text:
        with suppress(IndexError):
            if one.all("textarea"):
                one.write("i want the books\n")
            else:
                one.click("fieldset button")
        if not kills:
            kills, _ = 1, table.kill()
            table.start()
            one.driver.refresh()
        time.sleep(0.5)
        one.until(lambda: "your turn" in one.status or "It ended" in one.text)
    faults += pictures(one, "model-over", shots)
    errors = one.errors()
    one.quit()
    found = replayed(run, 2)  # and that of the two people
    return found | {"stopped_with": table.stop(), "faults": faults, "console": errors, "kills": kills}


def everywhere(runs: dict[str, Path], shots: Path) -> dict[str, Any]:
    """The part `browsers`."""
    found = {
        "deal": deal(runs["deal"], shots),
        "taboo": taboo(runs["taboo"], shots),
        "social": social(runs["social"], shots),
        "against a model": against(runs["deal"], shots),
    }
    wrong = [each for part in found.values() for each in (*part["faults"], *part["console"])]
    return {**found, "screens": {name: list(size) for name, size in WIDTHS.items()}, "wrong": wrong}


def watch(folder: Path) -> dict[str, Any]:
    """A run in the list of a watcher from its first stage to its report."""
    shutil.rmtree(folder / "outputs", ignore_errors=True)
    out = folder / "outputs" / "small" / "run"
    words = ["debug=fast", "name=small", f"hydra.run.dir={out}"]
    run = subprocess.Popen(
        [sys.executable, "-m", "parley", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    table, states = Table(folder / "deal", f"table.watched=[{folder / 'outputs'}]"), list[str]()
    one = Browser(table.watchers)

    def finished() -> bool:
        told = [each.text for each in one.all("#runs h2")]
        states.extend(each for each in told if not states or states[-1] != each)
        return bool(told) and told[0].endswith("finished") and bool(one.all("#runs a"))

    one.until(finished, 900)
    faults = [f"the run ended with {code}"] if (code := run.wait()) else []
    faults += [*one.look("light", "phone"), *one.look("dark", "desktop"), *one.accessible()]
    one.write("nothing of that name", "#find")
    one.says("0 of 1 runs")
    one.write("small", "#find")
    one.click("#runs a")
    link = one.driver.current_url
    one.until(
        lambda: (
            "small" in one.driver.title and one.driver.execute_script("return document.querySelectorAll('svg').length")
        )
    )
    match = next(each.id for each in Matches(out / "iter_001" / "eval" / "sampled"))
    one.driver.get(table.watchers)
    one.until(lambda: one.all("#matches a"))
    one.choose("metric", "joint_score")
    one.click("#query button")
    one.until(lambda: any("joint_score" in each.text for each in one.all("#matches p")))
    faults += [*one.look("light", "phone"), *one.look("dark", "desktop"), *one.accessible()]
    one.click("#matches a")
    one.says("payoff")
    faults += [*one.look("light", "phone"), *one.accessible()]
    one.driver.get("about:blank")
    one.driver.get(f"{link}#match={match}")
    shown = one.until(lambda: one.driver.execute_script("return document.getElementById('match')?.textContent"))
    errors = one.errors()
    one.quit()
    code = table.stop()
    found = {"states": states, "stopped_with": code, "match_shown": len(shown) > 100}
    return {**found, "wrong": [*faults, *errors, *([] if found["match_shown"] else ["the link to a match shows none"])]}


def main() -> int:
    from table_load import hostile, load
    from table_search import search

    folder, parts = Path(sys.argv[1]).resolve(), sys.argv[2:] or [*PARTS]
    shots = folder / "pictures"
    shots.mkdir(parents=True, exist_ok=True)
    runs = made(folder)
    for part in parts:
        for run in runs.values():
            shutil.rmtree(run / "table", ignore_errors=True)
        if part == "browsers":
            figures = everywhere(runs, shots)
        elif part == "watch":
            figures = watch(folder)
        elif part == "search":
            figures = search(Table, runs["deal"], folder / "search")
        else:
            figures = {"hostile": hostile, "load": load}[part](Table, runs["deal"])
        write_json(folder / f"{part}.json", {"revision": revision(), **figures})
        print(json.dumps({part: figures}, indent=1), flush=True)
    earlier = read_json(RECORDED) if RECORDED.exists() else {}
    found = {part: {"revision": earlier["revision"], **earlier[part]} for part in PARTS if part in earlier}
    found |= {part: read_json(path) for part in PARTS if (path := folder / f"{part}.json").exists()}
    record("table", found)
    return int(any(each["wrong"] for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())
