"""Seeds by name: every match, reply and batch order derives its own from the root seed. No global generator is used."""

from __future__ import annotations

import hashlib
import random


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed derived from `seed` and `names`: the same on every machine, in every process, in any order of
    calls."""
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def rng(seed: int, *names: str | int) -> random.Random:
    """A private random generator for `names` under `seed`."""
    return random.Random(derive(seed, *names))
