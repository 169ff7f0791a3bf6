"""The command line: composing, validating, launching, and the tasks."""
