"""What everything stands on: files, seeds, ranks, signals, names. It imports nothing of parley."""
