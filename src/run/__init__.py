"""A run at work: its config, parts and directory, the stages in it, and the training loop (`loop.py`)."""
