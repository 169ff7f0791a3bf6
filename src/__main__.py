"""`python -m parley` and the console script `parley`: hears from the first moment when it is asked to stop (exit code
75), while everything else is still being imported."""

from .system import preempt


def main() -> None:
    """Runs the command line."""
    with preempt.listening():
        from .cli.main import main as command

        command()


if __name__ == "__main__":
    main()
