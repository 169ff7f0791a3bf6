"""Benchmarks: tasks of lm-evaluation-harness on a snapshot, with our loader below them and our intervals above.

Gao et al., *A framework for few-shot language model evaluation*, github.com/EleutherAI/lm-evaluation-harness: its
tasks, prompts, metrics and its way to score and to generate (`HFLM`). It is an extra, imported where it is used.
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

RESULTS = "results.json"  # of the harness, subtasks of groups included
PORTION = 256  # requests between two looks at the progress
Report = Callable[[int], Any]


class Hardware(Protocol):
    """What a benchmark reads of a hardware profile."""

    accelerator: str
    precision: str


@dataclass(frozen=True)
class Benchmark:
    """Tasks, and how they are asked.

    tasks      names of tasks, groups and tags, as the harness or a file in `include` has them
    shots      worked examples before each question, for all tasks or by name; where it says nothing, and for a task
               whose own file says 0, what the file says
    include    a folder of task files, besides those of the harness. They are data: one that names Python is refused
    limit      first documents of each task only; None: all
    batch      requests at a time
    chat       ask in the model's chat template
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
        """InputError for a task that is not known or whose data are not there, and for a folder whose files are more
        than data."""
        with _quiet():
            self._load(0)

    def inputs(self, snapshot: Snapshot, hardware: Hardware, seed: int) -> dict[str, Any]:
        """All that the figures depend on, as JSON."""
        asked: dict[str, Any] = {"tasks": self.tasks, "shots": self.shots, "limit": self.limit, "chat": self.chat}
        asked |= {"include": digest(Path(self.include)) if self.include else None, "lm_eval": version("lm_eval")}
        return {"snapshot": snapshot.version, "dtype": _dtype(hardware), "seed": seed, **asked}

    def run(self, snapshot: Snapshot, folder: Path, hardware: Hardware, seed: int, report: Report) -> dict[str, Any]:
        """The figures of `snapshot` by task and metric: mean, interval, count. Requests are dealt to all ranks.

        Of a group they are those of the whole; those of its tasks stand in `results.json` in `folder`. `report` is told
        how many more requests were answered.
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
        """(tasks by name, groups by name), with their examples' number and seed set."""
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
        """What knows the tasks' files. Those of the harness are thousands: they are read where the folder's own do not
        do."""
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
    """The stage in `folder` that runs `bench` on `snapshot`: its outputs are the figures."""
    hardware, seed = config.hardware, int(config.seed)

    def work() -> dict[str, Any]:
        with progress.stage(f"{folder.parent.name}/{folder.name}", None, "requests") as bar:
            return bench.run(snapshot, folder, hardware, seed, bar.advance)

    return stage(folder, bench.inputs(snapshot, hardware, seed), work)


def figures(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the harness found, of each task and group that is no part of another, as metric -> mean, low, high, n,
    clusters.

    The interval is that of its standard error with Student's t. A metric keeps the name of its filter, where it has
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
    except TemplateError as error:  # it is tried on a document
        raise _unfilled(name, error) from error
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        TypeError,
    ) as error:  # what a task's file, or its data, can lack
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
    """`folder`, all of whose task files hold nothing but data: InputError where one names Python or a file
    elsewhere."""
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
    """Whether the harness has the metric itself: others it would fetch, and run."""
    import lm_eval.api.metrics  # noqa: F401  # which registers them
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
    """The harness's HFLM around the model of `snapshot`, as our loader makes it: local, from safetensors, adapter and 4
    bits included."""
    from lm_eval.models.huggingface import HFLM

    from ..models.load import load_policy, load_tokenizer

    class Dealt(HFLM):  # type: ignore[misc]  # the harness is untyped to us
        """Every rank knows all requests, answers its share, and gets the answers of the others."""

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
    """`work` on all requests, in their order: neighbours stay together, for they share their context."""
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
    """No chatter of the harness, whose templates are filled in by jinja's sandbox: a task's file is a stranger's
    text."""
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
    """The harness's standard error of a metric without a closed form, by resampling; here without processes of its
    own."""
    draw = random.Random(0)
    return stdev(metric(draw.choices(values, k=len(values))) for _ in range(iters))


@contextmanager
def _own_randomness(seed: int, hardware: Hardware) -> Iterator[None]:
    """Python's, NumPy's and PyTorch's global generators are seeded for the harness, and are as they were afterwards."""
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
    """As JSON can say it: numbers that are not finite become null, what is not JSON its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
