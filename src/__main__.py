"""`python -m parley` is the console script `parley`."""

from .cli.main import main

main()
