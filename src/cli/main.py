"""The entry point: compose -> validate -> launch -> run. Nothing heavy is imported before the config is known to
compose."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import __version__
from ..report.differences import differences
from ..report.progress import terminal
from ..report.redact import from_file, hidden, public
from ..run.config import use_threads
from ..run.errors import TOLD, in_words
from ..system import dotenv, ranks
from . import launch, of_run
from .composing import CONF, NAME, WRONG, composed, composer, jobs, refuse
from .job import GONE
from .validation import OF_RUN, validate


def run(config: DictConfig) -> float | None:
    """One job: validates the config, runs its task, returns the task's figure (for sweepers)."""
    job = HydraConfig.get()
    out = Path(job.runtime.output_dir)
    try:
        use_threads(config)
        refuse(validate(config, job.runtime.choices, out))
        if job.output_subdir is not None:  # tasks that only read a run have none
            _tell(config, job)
        return launch.run(config, out)
    except TOLD as error:
        if job.mode is RunMode.MULTIRUN:
            raise
        sys.exit(_say(error))


def main() -> None:
    """The console script `parley`."""
    if sys.argv[1:] == ["--version"]:
        print(f"parley {__version__}")
        return
    try:
        dotenv.load(Path(".env"), from_file)
        if launch.follows():
            launch.follow()
            return
        with launch.leading():
            _start(check(sys.argv[1:]))
    except ranks.Elsewhere as gone:  # the failed rank reports the reason
        _say(gone)
        sys.exit(GONE)
    except TOLD as error:
        sys.exit(_say(error))
    except KeyboardInterrupt:
        print("\nparley: stopped; the same command with resume=auto goes on from here", file=sys.stderr)
        sys.exit(130)


def _start(arguments: Sequence[str]) -> None:
    """Runs Hydra on `arguments` instead of `sys.argv`."""
    version.setbase("1.3")
    parser = get_args_parser()
    _run_hydra(
        args=parser.parse_args(list(arguments)),
        args_parser=parser,
        task_function=run,
        config_path=f"pkg://{CONF}",
        config_name=NAME,
    )


def _tell(config: DictConfig, job: Any) -> None:
    """Prints what differs from the experiment, or from the run that the command is composed from, as a tree."""
    if str(config.task._target_).startswith(of_run.LOOKING):  # whatever the experiment says is not used
        return
    experiment = job.runtime.choices.get("experiment")
    words = [word for word in job.overrides.task if word.endswith(f"={OF_RUN}")]
    try:
        plain = hydra.compose(NAME, words or [f"experiment={experiment}"])
    except WRONG:  # an experiment that needs overrides to compose
        return
    both = (public(OmegaConf.to_container(each)) for each in (plain, config))
    run = config.run or config.resume if not config.runs else config.runs[0]
    named = f"as {run} was begun" if words else f"experiment={experiment}"
    if (tree := differences(f"{named}, but", *both)) is not None:
        terminal(stderr=True).print(tree)


def _say(error: Exception) -> int:
    print(f"parley: {hidden(in_words(error), ' '.join(sys.argv))}", file=sys.stderr)
    return 2


def check(arguments: Sequence[str]) -> list[str]:
    """Finds all faults of a command line, of every job of a sweep, before anything is built. ConfigError lists them.

    Returns the arguments, preceded by overrides that compose them from the run that they name."""
    args, unknown = get_args_parser().parse_known_args(list(arguments))
    flags = [word for word in unknown if word.startswith("-")]
    flags += ["--experimental-rerun"] if args.experimental_rerun else []  # which would unpickle a file
    if args.help or args.hydra_help or args.shell_completion or args.info or args.config_path:
        return list(arguments)
    refuse([f"{flag}: there is no such flag; options are written key=value" for flag in flags])
    with composer(args.config_dir):
        base = _base(args.overrides)
    base.register()
    with composer(args.config_dir):
        overrides = [*base.words, *args.overrides]
        commands, faults = jobs(overrides) if args.multirun else ([overrides], [])
        for number, overrides in enumerate(commands):
            job = number if args.multirun else None
            faults += _job_faults(args.config_name or NAME, overrides, job, bool(args.cfg))
    refuse(list(dict.fromkeys(faults)))
    at = list(arguments).index(args.overrides[0]) if args.overrides else len(arguments)
    return [*arguments[:at], *base.words, *arguments[at:]]


def completed(words: Sequence[str]) -> list[str]:
    """The overrides `words`, preceded by those that compose the command from the run that it names. Hydra must be
    initialised. ConfigError as `of_run.base`."""
    base = _base(words)
    base.register()
    return [*base.words, *words]


def _base(words: Sequence[str]) -> of_run.Base:
    return of_run.base(words, lambda: composed(NAME, words)[0])


def _job_faults(name: str, overrides: list[str], number: int | None, compose_only: bool) -> list[str]:
    config, faults = composed(name, overrides)
    if config is None:
        return faults
    faults += [] if faults else _emptied(overrides, config)
    if compose_only:
        return faults
    settings, choices = config.hydra, config.hydra.runtime.choices
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    out = None
    if not faults:
        use_threads(config)
        out = _directory(settings, number)
    return faults + validate(config, choices, out)


def _emptied(overrides: Sequence[str], config: DictConfig) -> Iterator[str]:
    """Faults of overrides `key={}` of a mapping with entries: Hydra merges mappings, so they change nothing."""
    for text in overrides:
        key, _, value = text.partition("=")
        held = OmegaConf.select(config, key) if value == "{}" and key[:1] not in "+~" else None
        if isinstance(held, DictConfig) and held:
            taken = " ".join(f"~{key}.{name}" for name in map(str, held))
            yield f"{text} changes nothing, since mappings are merged: {taken} empties it"


def _directory(settings: DictConfig, number: int | None) -> Path | None:
    """The job's directory; None if a key in its path has no value, which `validate` reports."""
    try:
        return Path(settings.run.dir if number is None else f"{settings.sweep.dir}/{number}")
    except OmegaConfBaseException:
        return None
