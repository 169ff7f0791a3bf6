"""The command line: composes and validates the config, launches processes, runs tasks."""
