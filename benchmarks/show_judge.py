"""A judge as scorer on a slow server: killed again and again (kill -9), resumed to the same scores, nothing paid twice.

    python benchmarks/show_judge.py
    python benchmarks/show_judge.py together     # 1,000 matches, 64 verdicts in flight against one at a time

300 scripted matches of Deal are rated by a model behind an OpenAI-style server on loopback, 32 requests in flight. It
takes 0.2 to 0.6 s, now and then answers 500 or 429, and some of its verdicts cannot be read: at first, or ever. The run
beside it is left alone. Shown are: the same scores byte for byte; missing ones counted; no request whose answer was
settled or recorded is ever sent again, only what was in flight at a kill is. Exits with 1 where one of these fails, or
where verdicts depend on how many are in flight.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from results import ROOT, record

sys.path.insert(0, str(ROOT / "tests"))

from openai_server import Server, completion

MATCHES, IN_FLIGHT, KILLS = 300, 32, (40, 130, 240)  # kills: after so many verdicts
STAGE = "iter_001/play"
SEATS = ("first", "second")
WORDS = [
    "game=deal", "imitate.matches=0", "scorer=judge", "scorer.player=judge",
    "opponents.judge.model=some-model", "+backend@opponents.judge.backend=openai",
    "opponents.judge.backend.backoff_s=0.1", "opponents.judge.backend.price_completion=1.0",
]  # fmt: skip


def talk(body: dict[str, Any]) -> dict[str, Any]:
    """A verdict that the text decides: three in ten can be read at the second attempt only, one in ten never."""
    first, asked_again = body["messages"][1]["content"], len(body["messages"]) > 2
    lot = blake2b(first.encode(), digest_size=8).digest()
    time.sleep(0.2 + lot[0] / 255 * 0.4)
    if lot[1] % 10 == 0 or (lot[1] % 10 < 4 and not asked_again):
        return completion(body, "I would rather not say.")
    rated = {seat: {"politeness": lot[number] % 11} for number, seat in enumerate(SEATS, 2)}
    return completion(body, f"They were all right. {json.dumps(rated)}")


def work(out: Path, url: str, matches: int = MATCHES, in_flight: int = IN_FLIGHT) -> None:
    """Plays the matches, and has them judged: what is stored already is not done again."""
    from hydra import compose, initialize_config_module
    from parley.play.pairing import self_play
    from parley.report.progress import Progress
    from parley.run.build import build
    from parley.run.run import Run, figures
    from parley.run.scoring import Scoring
    from rich.console import Console

    with initialize_config_module("parley.conf", version_base="1.3"):
        backend = "opponents.judge.backend"
        config = compose("config", [*WORDS, f"play.in_flight={in_flight}", f"{backend}.url={url}",
                                    f"{backend}.concurrency={in_flight}"])  # fmt: skip
    run = Run(build(config, out), out, Progress(Console(quiet=True)))
    seatings = self_play(run.game, run.game.scenarios("train")[: -(-matches // 3)], "fair", run.seed, STAGE, 3)
    run.stage(STAGE, {}, lambda: run.play(STAGE, seatings, figures))
    Scoring(run).score(STAGE)


def start(out: Path, server: Server) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, str(out), server.url], start_new_session=True)


def lines(path: Path) -> list[Any]:
    """The whole lines of a file of JSON."""
    text = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def recorded(out: Path) -> set[str]:
    """The requests whose replies a run has, in verdicts or in the journal of open ones."""
    folder = out / STAGE / "score"
    stored = {f"{each['id']}/{turn['request']}" for each in lines(folder / "0.jsonl") for turn in each["turns"]}
    return stored | {f"{each['match']}/{each['turn']['request']}" for each in lines(folder / "open-0.jsonl")}


def killed(out: Path, server: Server, verdicts: int) -> dict[str, Any]:
    """Kills a run once it has so many verdicts; says what it had then."""
    process = start(out, server)
    while len(lines(out / STAGE / "score/0.jsonl")) < verdicts:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    had, booked = recorded(out), lines(out / "spending/judge.jsonl")
    asked = {line["for"] for line in booked if "book" in line}
    return {"verdicts": len(lines(out / STAGE / "score/0.jsonl")), "had": had, "asked": asked, "lines": len(booked)}


def main() -> None:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        calm, rough = Server(talk), Server(talk, faults=["500"] * 3 + ["429 0.3"] + ["500"] * 3)
        for server in (calm, rough):
            server.http.handle_error = lambda *_: None  # a killed client's connection breaks
        alone = start(whole, calm)
        moments = [killed(cut, rough, verdicts) for verdicts in KILLS]
        codes = start(cut, rough).wait(), alone.wait()
        ledger = lines(cut / "spending/judge.jsonl")
        scores = [(each / STAGE / "score/scores.jsonl").read_bytes() for each in (whole, cut)]
        verdicts = lines(cut / STAGE / "score/0.jsonl")
        left = [path.name for path in (cut / STAGE / "score").glob("open-*")]
    again = [
        {line["for"] for line in ledger[moment["lines"] :] if "book" in line} & moment["had"] for moment in moments
    ]
    names = {line["book"]: line["for"] for line in ledger if "book" in line}
    paid = Counter(names[line["settle"]] for line in ledger if line.get("cost", 0.0) > 0)
    in_flight = [len(moment["asked"] - moment["had"]) for moment in moments]
    rows = [json.loads(line) for line in scores[1].splitlines()]
    figures = {
        "matches": len(rows),
        "in_flight": calm.most_flying,
        "killed_at_verdicts": [moment["verdicts"] for moment in moments],
        "in_flight_at_kills": in_flight,
        "recorded_and_asked_again": sum(map(len, again)),
        "requests_paid": sum(paid.values()),
        "paid_twice": sum(count > 1 for count in paid.values()),
        "judged_at_the_second_attempt": sum(
            each["result"]["outcome"] == "judged" and len(each["turns"]) > 1 for each in verdicts
        ),
        "missing": sum(not row["scores"] for row in rows),
        "same_scores": scores[0] == scores[1],
        "seconds": round(time.monotonic() - begun, 1),
    }
    print(json.dumps(figures, indent=2))
    record("judge", figures)
    fine = figures["same_scores"] and not figures["recorded_and_asked_again"] and not left and codes == (0, 0)
    bounded = figures["paid_twice"] == 0 and max(in_flight) <= IN_FLIGHT >= calm.most_flying
    sys.exit(0 if fine and bounded and 0 < figures["missing"] < len(rows) == MATCHES else 1)


def muddled(body: dict[str, Any]) -> dict[str, Any]:
    """A verdict that the text decides. At first half of the texts get junk, half of the JSON, a number out of range or
    a refusal; one in sixteen never gets anything else."""
    first, asked_again = body["messages"][1]["content"], len(body["messages"]) > 2
    lot = blake2b(first.encode(), digest_size=8).digest()
    if lot[1] % 2 or (asked_again and lot[1] % 16):
        return completion(body, json.dumps(_rated(lot)))
    junk, torn, high = "well, well", json.dumps(_rated(lot))[:-9], json.dumps(_rated([99] * 4))
    wrong = (junk, torn, high)[lot[4] % 4 : lot[4] % 4 + 1]
    return completion(body, wrong[0]) if wrong else completion(body, None, refusal="I cannot judge people.")


def _rated(lot: Sequence[int]) -> dict[str, dict[str, int]]:
    return {seat: {"politeness": lot[n] if lot[n] == 99 else lot[n] % 11} for n, seat in enumerate(SEATS, 2)}


def together(many: int = 1000, most: int = 64) -> None:
    """The same matches judged with `most` verdicts in flight and one at a time, by a server that errs (500s, too)."""
    found, scores, verdicts = {}, [], []
    for in_flight in (most, 1):
        server, begun = Server(muddled, faults=["", "", "500"] * 20, delay_s=0.05), time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, __file__, folder, server.url, str(many), str(in_flight)], check=True)
            scores.append((Path(folder) / STAGE / "score/scores.jsonl").read_bytes())
            verdicts.append(lines(Path(folder) / STAGE / "score/0.jsonl"))
        found[in_flight] = {"most_in_flight": server.most_flying, "seconds": round(time.monotonic() - begun, 1)}
        server.close()
    rows = [json.loads(line) for line in scores[0].splitlines()]
    told = {
        "matches": len(rows),
        "by_in_flight": found,
        "same_scores": scores[0] == scores[1],
        "judged_at_the_second_attempt": sum(
            each["result"]["outcome"] == "judged" and len(each["turns"]) > 1 for each in verdicts[0]
        ),
        "missing": sum(not row["scores"] for row in rows),
        "zeros_of_no_verdict": sum(
            0 in row["scores"].get("politeness", {}).values() for row in rows if row["id"] in _silent(verdicts[0])
        ),
    }
    print(json.dumps(told, indent=2))
    record("judge_together", told)
    sys.exit(0 if told["same_scores"] and 0 < told["missing"] < many and not told["zeros_of_no_verdict"] else 1)


def _silent(verdicts: list[Any]) -> set[str]:
    """The matches on which no verdict came."""
    return {each["scenario"]["data"]["match"] for each in verdicts if each["result"]["outcome"] != "judged"}


if __name__ == "__main__":
    if sys.argv[1:2] == ["together"]:
        together(*map(int, sys.argv[2:]))
    elif sys.argv[1:]:
        work(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
    else:
        main()
