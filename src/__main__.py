"""`python -m parley` is the console script `parley`."""

from .main import main

main()
