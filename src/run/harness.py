"""Benchmarks: runs tasks of lm-evaluation-harness on a snapshot, with parley's model loader and intervals.

Gao et al., *A framework for few-shot language model evaluation*, github.com/EleutherAI/lm-evaluation-harness: its
tasks, prompts, metrics, scoring and generation (`HFLM`). It is an extra, imported on use.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from ..models.snapshot import Snapshot
from ..report.estimates import Estimate, t_quantile
from ..report.progress import Progress
from ..system import ranks
from ..system.files import InputError, digest, write_json
from ..system.seeds import derive
from .stages import Done, stage

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

RESULTS = "results.json"  # results of the harness, including subtasks of groups
PORTION = 256  # requests between two progress updates
Report = Callable[[int], Any]


class Hardware(Protocol):
    """The settings of a hardware profile that benchmarks read."""

    accelerator: str
    precision: str


@dataclass(frozen=True)
class Benchmark:
    """Benchmark tasks and their settings.

    tasks      names of tasks, groups and tags, of the harness or of files in `include`
    shots      few-shot examples before each question, for all tasks or by name; tasks without a number, and tasks whose
               own file says 0, use their file's number
    include    a folder of further task files. They are data: files that name Python code are refused
    limit      number of documents per task, from the beginning; None: all
    batch      requests at a time
    chat       whether to use the model's chat template
    """

    tasks: list[str]
    shots: int | Mapping[str, int] | None = None
    include: str | None = None
    limit: int | None = None
    batch: int = 8
    chat: bool = False

    def __post_init__(self) -> None:
        if find_spec("lm_eval") is None:
            raise ModuleNotFoundError("a benchmark needs lm-evaluation-harness: pip install 'parley-lm[benchmark]'")
        if not self.tasks or self.batch < 1 or (self.limit is not None and self.limit < 1):
            raise InputError("benchmark: there must be a task, and batch and limit must be at least 1")
        if isinstance(self.shots, Mapping) and (strange := sorted(set(self.shots) - set(self.tasks))):
            raise InputError(f"benchmark.shots names {', '.join(strange)}, which benchmark.tasks does not")

    def check(self) -> None:
        """InputError for an unknown task, a task without its data, and a folder whose files ask for code."""
        with _quiet():
            self._load(0)

    def inputs(self, snapshot: Snapshot, hardware: Hardware, seed: int) -> dict[str, Any]:
        """All inputs of the figures, as JSON."""
        asked: dict[str, Any] = {"tasks": self.tasks, "shots": self.shots, "limit": self.limit, "chat": self.chat}
        asked |= {"include": digest(Path(self.include)) if self.include else None, "lm_eval": version("lm_eval")}
        return {"snapshot": snapshot.version, "dtype": _dtype(hardware), "seed": seed, **asked}

    def run(self, snapshot: Snapshot, folder: Path, hardware: Hardware, seed: int, report: Report) -> dict[str, Any]:
        """The figures of `snapshot` by task and metric: mean, interval, count. Requests are dealt to all ranks.

        A group has one set of figures; those of its tasks are in `results.json` in `folder`. `report` is called with
        the number of newly answered requests.
        """
        from jinja2 import TemplateError
        from lm_eval import evaluate

        with _quiet(), _own_randomness(derive(seed, "benchmark"), hardware):
            tasks, groups = self._load(derive(seed, "shots"))
            model = _model(snapshot, hardware, self.batch, report)
            try:
                found: Any = evaluate(
                    model, {"tasks": tasks, "groups": groups}, limit=self.limit, bootstrap_iters=1000,
                    log_samples=False,
                    apply_chat_template=self.chat,
                )  # fmt: skip
            except TemplateError as error:
                raise _unfilled(", ".join(self.tasks), error) from error
        if ranks.rank() == 0:
            kept = {key: found.get(key) for key in ("results", "groups", "n-shot", "n-samples", "versions")}
            write_json(folder / RESULTS, _plain({"lm_eval": version("lm_eval"), **kept}))
        return figures(found)

    def _load(self, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """(tasks by name, groups by name), with number and seed of their few-shot examples set."""
        tasks: dict[str, Any] = {}
        groups: dict[str, Any] = {}
        manager = self._manager
        for name in self.tasks:
            loaded = _loaded(manager, name)
            if twice := sorted(tasks.keys() & loaded["tasks"].keys()):
                raise InputError(f"benchmark.tasks asks twice for {', '.join(twice)} (in {name})")
            for task in loaded["tasks"].values():
                self._examples(task, name, seed)
            tasks |= loaded["tasks"]
            groups |= loaded["groups"]
        return tasks, groups

    def _examples(self, task: Any, name: str, seed: int) -> None:
        shots = self.shots.get(name) if isinstance(self.shots, Mapping) else self.shots
        own = task.get_config("num_fewshot")
        task.set_config(key="num_fewshot", value=own or 0 if shots is None or own == 0 else shots)
        task.set_fewshot_seed(seed=seed)

    @cached_property
    def _manager(self) -> TaskManager:
        """The harness's task index. Its thousands of built-in files are read only if the user's folder does not define
        every requested task."""
        from lm_eval.tasks import TaskManager

        include = None if self.include is None else _data_only(Path(self.include))
        if include is not None:
            own = TaskManager(include_path=str(include), include_defaults=False)
            if set(self.tasks) <= {*own.all_subtasks, *own.all_tags}:
                return own
        every = TaskManager(include_path=None if include is None else str(include))
        if strange := [name for name in self.tasks if name not in every.all_tasks]:
            raise InputError(
                "\n  - ".join(
                    ["benchmark.tasks:", *(f"there is no task {name}{_nearest(name, every)}" for name in strange)]
                )
            )
        return every


def measure(bench: Benchmark, snapshot: Snapshot, folder: Path, config: Any, progress: Progress) -> Done:
    """Runs `bench` on `snapshot` as the stage in `folder`; its outputs are the figures."""
    hardware, seed = config.hardware, int(config.seed)

    def work() -> dict[str, Any]:
        with progress.stage(f"{folder.parent.name}/{folder.name}", None, "requests") as bar:
            return bench.run(snapshot, folder, hardware, seed, bar.advance)

    return stage(folder, bench.inputs(snapshot, hardware, seed), work)


def figures(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The harness's results for each top-level task and group, as metric -> mean, low, high, n, clusters.

    Intervals are from the harness's standard error with Student's t. A metric's name includes its filter, if it has
    one.
    """
    rows = {**results["results"], **(results.get("groups") or {})}
    parts = {name for group in results.get("group_subtasks", {}).values() for name in group}
    found = {}
    for task in sorted(rows.keys() - parts):
        row, count = rows[task], int(rows[task].get("sample_len") or 0)
        found[task] = {
            metric if kind == "none" else f"{metric}_{kind}": _figure(value, row.get(f"{metric}_stderr,{kind}"), count)
            for key, value in row.items()
            for metric, comma, kind in [key.partition(",")]
            if comma and not metric.endswith("_stderr") and isinstance(value, (int, float))
        }
    return found


def _figure(mean: float, error: Any, count: int) -> dict[str, Any]:
    half = t_quantile(count - 1) * error if count > 1 and isinstance(error, (int, float)) else float("inf")
    return Estimate(float(mean), mean - half, mean + half, count, count).to_json()


def _loaded(manager: TaskManager, name: str) -> Any:
    from jinja2 import TemplateError

    try:
        return manager.load([name])
    except TemplateError as error:  # the template is tried on a document
        raise _unfilled(name, error) from error
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        TypeError,
    ) as error:  # errors of incomplete task files or data
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"benchmark.tasks: {name} cannot be loaded: {reason}. Data of a hub must be in its cache, or the hub "
            f"within reach; "
            "paths in a task's own file are taken from where the command is run"
        ) from error


def _unfilled(names: str, error: Exception) -> InputError:
    return InputError(f"benchmark.tasks: a template of {names} cannot be filled in: {error}")


def _nearest(name: str, manager: TaskManager) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, manager.all_tasks, n=1)
    return f"; did you mean {close[0]}?" if close else ""


# --- files that are data
# -------------------------------------------------------------------------------------------------

CODE = ("class", "custom_dataset", "unsafe_code", "hf_evaluate")  # keys of a task's file that ask for code


def _data_only(folder: Path) -> Path:
    """Checks that all task files in `folder` are plain data: InputError if one names Python code or an outside file."""
    if not folder.is_dir():
        raise InputError(f"benchmark.include: there is no folder {folder}")
    inside, todo, seen = folder.resolve(), [path.resolve() for path in folder.rglob("*.yaml")], set[Path]()
    while todo:
        if (path := todo.pop()) in seen:
            continue
        seen.add(path)
        if not path.is_relative_to(inside):
            raise InputError(
                f"benchmark.include: {folder} takes in {path}, which lies outside: put a copy into the folder"
            )
        try:
            held = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.constructor.ConstructorError as error:
            raise _named_code(path, str(error.problem)) from error
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"benchmark.include: {path} cannot be read: {error}") from error
        for key, value in _pairs(held):
            if (key in CODE and value) or (key == "metric" and not _known(value)):
                raise _named_code(path, f"{key}: {value}")
        more = held.get("include", []) if isinstance(held, dict) else []
        todo += [(path.parent / str(each)).resolve() for each in ([more] if isinstance(more, str) else more)]
    return folder


def _named_code(path: Path, what: str) -> InputError:
    return InputError(
        f"benchmark.include: {path} asks for code ({what}), and a task's folder is read as data: write templates in "
        f"place of functions, "
        "and take metrics that the harness has"
    )


def _known(metric: Any) -> bool:
    """Whether the metric is built into the harness, which would download and run others."""
    import lm_eval.api.metrics  # noqa: F401  # registers the metrics
    from lm_eval.api.registry import metric_registry

    return str(metric) in metric_registry


def _pairs(held: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(held, Mapping):
        for key, value in held.items():
            yield str(key), value
            yield from _pairs(value)
    elif isinstance(held, list):
        for value in held:
            yield from _pairs(value)


# --- the harness, kept within bounds
# ---------------------------------------------------------------------------------------


def _model(snapshot: Snapshot, hardware: Hardware, batch: int, report: Report) -> Any:
    """The harness's HFLM around the model of `snapshot` from parley's loader: local, from safetensors, with adapter and
    4-bit base."""
    from lm_eval.models.huggingface import HFLM

    from ..models.load import load_policy, load_tokenizer

    class Dealt(HFLM):  # type: ignore[misc]  # the harness is untyped to us
        """Every rank gets all requests, answers its share, and receives the others' answers."""

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return _dealt(super().loglikelihood, requests, report)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return _dealt(super().loglikelihood_rolling, requests, report)

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return _dealt(super().generate_until, requests, report)

    device = {"cpu": "cpu", "gpu": "cuda"}[hardware.accelerator]
    model = load_policy(snapshot, _dtype(hardware), device)
    return Dealt(
        pretrained=model, tokenizer=load_tokenizer(snapshot.base or snapshot.path, template=False), batch_size=batch
    )


def _dealt(work: Callable[..., list[Any]], requests: Sequence[Any], report: Report) -> list[Any]:
    """`work` on all requests, in order; neighbours stay on one rank, because they share their context."""
    count, rank, world = len(requests), ranks.rank(), ranks.world()
    mine = requests[count * rank // world : count * (rank + 1) // world]
    answers: list[Any] = []
    for at in range(0, len(mine), PORTION):
        answers += work(mine[at : at + PORTION], disable_tqdm=True)
        report(len(mine[at : at + PORTION]))
    return [answer for share in ranks.gathered(answers) for answer in share]


def _dtype(hardware: Hardware) -> str:
    return "bfloat16" if hardware.precision.startswith("bf16") else "float32"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the harness, and renders its templates in Jinja's sandbox, because task files are untrusted."""
    import datasets
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils
    from lm_eval.api import metrics, task

    safe = SandboxedEnvironment(undefined=utils.env.undefined, keep_trailing_newline=True)
    safe.filters.update(utils.env.filters)
    ours = [(utils, "env", safe), (task, "tqdm", lambda each, **_: each), (metrics, "bootstrap_stderr", _bootstrap)]
    theirs = [(module, name, getattr(module, name)) for module, name, _ in ours]
    log, bars = logging.getLogger("lm_eval"), datasets.is_progress_bar_enabled()
    level = log.level
    log.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        for each in ours:
            setattr(*each)
        yield
    finally:
        for each in theirs:
            setattr(*each)
        log.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


def _bootstrap(metric: Callable[[Sequence[Any]], float], values: Sequence[Any], iters: int) -> float:
    """The harness's bootstrap standard error of a metric without a closed form, in this process."""
    draw = random.Random(0)
    return stdev(metric(draw.choices(values, k=len(values))) for _ in range(iters))


@contextmanager
def _own_randomness(seed: int, hardware: Hardware) -> Iterator[None]:
    """Seeds the global generators of Python, NumPy and PyTorch for the harness, and restores them afterwards."""
    import numpy as np
    import torch

    state, array = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if hardware.accelerator == "gpu" else []
    with torch.random.fork_rng(devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(array)


def _plain(value: Any) -> Any:
    """`value` as JSON: non-finite numbers become null, other values their text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
