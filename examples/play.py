"""Loads a snapshot, plays a match of Deal or No Deal against a script, and prints it: python play.py SNAPSHOT

SNAPSHOT is the directory of a run, a model folder, a .gguf file, or ORG/NAME in the Hugging Face cache.
"""

import sys

from parley import Sampling, load_snapshot, play_match, transcript
from parley.games.deal import Deal

game = Deal(prompt="compact")  # prompt="full" for a model that reads instructions
snapshot = load_snapshot(sys.argv[1])
match = play_match(game, {"first": snapshot, "second": "fair"}, seed=1, sampling=Sampling(temperature=0.7))
print(transcript(game, match))
