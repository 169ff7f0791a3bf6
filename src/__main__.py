"""`python -m parley` and the console script `parley`: handles stop signals (exit code 75) from the first moment, before
anything else is imported."""

from .system import preempt


def main() -> None:
    """Runs the command line."""
    with preempt.listening():
        from .cli.main import main as command

        command()


if __name__ == "__main__":
    main()
