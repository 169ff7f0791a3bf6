"""Settings that must stand before torch is imported: one thread (two spin against each other on shared cores),
offline."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"


def pytest_sessionfinish() -> None:
    """Ends what the tests' commands were forked from."""
    import commands

    commands.end()
