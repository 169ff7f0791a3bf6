"""The W&B dashboard, put up by the service's own library at a GraphQL server of our own on loopback."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from parley.cli.tasks import dashboards
from parley.report.trackers import sections
from parley.run.config import ConfigError
from parley.run.tracking import STEP

KEY = "0123456789abcdef0123456789abcdef01234567"
METRICS = Path(__file__).parents[1] / "fixtures" / "run_0_1_0" / "metrics.jsonl"


class Service(ThreadingHTTPServer):
    """Answers who the key's owner is, and takes views of every project but `forbidden`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[dict] = []
        self.keys: list[str | None] = []

    def answer(self, asked: dict) -> dict:
        self.asked.append(asked)
        if "upsertView" not in asked["query"]:
            return {"data": {"viewer": {"id": "u", "entity": "somebody", "username": "somebody", "flags": "{}"}}}
        if asked["variables"]["projectName"] == "forbidden":
            return {"data": {"upsertView": None}, "errors": [{"message": "permission denied"}]}
        view = {"id": "dmlldw==", "name": asked["variables"]["name"]}
        return {"data": {"upsertView": {"view": view, "inserted": True}}}


class Answer(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/graphql":
            self.server.keys.append(self.headers["Authorization"])
        said = json.dumps(self.server.answer(json.loads(body)) if self.path == "/graphql" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


@contextmanager
def service(monkeypatch) -> Iterator[Service]:
    with Service() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server
        server.shutdown()


def put_up(tmp_path: Path, *words: str) -> None:
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose("config", ["task=dashboard", *words])
    instantiate(config.task, _partial_=True)(config, tmp_path)


def test_the_layout_arrives_whole_and_nothing_but_it(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.chdir(tmp_path)
    with service(monkeypatch) as server:
        put_up(tmp_path, "task.project=games", "task.title=my runs")
    (sent,) = [each["variables"] for each in server.asked if "upsertView" in each["query"]]
    assert (sent["entityName"], sent["projectName"], sent["displayName"]) == ("somebody", "games", "my runs")
    assert all(key and key.startswith("Basic ") for key in server.keys)
    assert all("mutation" not in each["query"] for each in server.asked if "upsertView" not in each["query"])
    shown = {
        each["name"]: each["panels"] for each in json.loads(sent["spec"])["section"]["panelBankConfig"]["sections"]
    }
    assert list(shown) == ["eval", "train", "steps", "play", "seconds", "transcripts"]
    first = shown["eval"][0]["config"]
    assert first["metrics"] == [f"eval/sampled/joint_score{end}" for end in ("", "/low", "/high")]
    lines = [each["config"] for name in ("eval", "train", "play", "seconds") for each in shown[name]]
    assert {each["xAxis"] for each in lines} == {"iteration"}
    assert {each["config"]["xAxis"] for each in shown["steps"]} == {"step"}
    assert all(each["useMetricRegex"] for each in lines[1:]) and '"transcripts"' in json.dumps(shown["transcripts"])
    assert f"/somebody/games?nw={sent['name'].removeprefix('nw-').removesuffix('-v')}" in capsys.readouterr().out
    assert [*tmp_path.rglob("*")] == []


def test_what_the_service_refuses_is_told(tmp_path, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    with service(monkeypatch), pytest.raises(ConfigError, match=r"took no view of forbidden: .*permission denied"):
        put_up(tmp_path, "task.project=forbidden", "task.entity=team")


def test_nothing_is_asked_of_the_service_without_a_key_or_with_a_wrong_layout(tmp_path, monkeypatch):
    with service(monkeypatch) as server:
        with pytest.raises(ConfigError, match=r"task\.sections\.play\.kept: '\(': "):
            put_up(tmp_path, "+task.sections.play.kept='('")
        monkeypatch.delenv("WANDB_API_KEY")
        with pytest.raises(ConfigError, match="set WANDB_API_KEY"):
            put_up(tmp_path)
    assert server.asked == []


def test_every_panel_finds_its_figures_with_one_policy_and_with_several():
    with initialize_config_module("parley.conf", version_base="1.3"):
        panels = compose("config", ["task=dashboard"]).task.sections
    rows = [json.loads(line) for line in METRICS.read_text().splitlines()]
    since = ["learn.loss", "learn.validation_logprob", "learn.samples", "play.kept", "play.illegal", "play.entropy"]
    since += ["language.start_logprob", "language.reply_tokens", "versus.start.win_rate"]
    one = {*sections({f"learner.{name}": 0 for name in since}), *(f"steps/{name}" for name in STEP)}
    one |= {name for row in rows for name in sections(row)}
    several = {*sections({f"attacker.{name}": 0 for name in since}), *(f"steps/attacker/{name}" for name in STEP)}
    several |= {name.replace("eval/", "eval/attacker/") for name in one if name.startswith("eval/")}
    several |= {name for name in one if name.startswith("seconds/")}
    for names in (one, several):
        found = {
            (section, panel): [name for name in names if re.search(figures, name)]
            for section, each in panels.items()
            for panel, figures in each.items()
        }
        assert [panel for panel, known in found.items() if not known] == []


@pytest.mark.parametrize(
    ("metric", "figure"),
    [
        ("sampled.joint_score", "eval/sampled/joint_score"),
        ("versus.start.win_rate", "eval/versus/start/win_rate"),
        ("attacker.sampled.score", "eval/attacker/sampled/score"),
        ("scores.goal", "play/scores/goal"),
    ],
)
def test_the_metric_has_the_name_that_the_tracker_gives_it(metric, figure):
    assert dashboards.figure(metric) == figure
