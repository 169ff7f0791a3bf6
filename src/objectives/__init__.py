"""Losses: pure functions from log-probs of utterances and their references to a loss and its metrics."""
