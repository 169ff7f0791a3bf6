"""parley trains language models by letting them play dialogue games, and shows whether they got better."""

__version__ = "0.1.0"
