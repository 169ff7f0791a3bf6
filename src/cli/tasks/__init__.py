"""The tasks. Each takes the composed config, the run directory, and the arguments of its own node."""
