"""Runs: config, parts, run directory, resumable stages, and the training loop (`loop.py`)."""
