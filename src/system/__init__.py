"""The lowest room: files, seeds, ranks, signals, names. Imports nothing else of parley."""
