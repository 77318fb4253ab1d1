"""``python -m fertiray`` is the ``fertiray`` command."""

import sys


def main() -> None:
    """Runs the command; Ctrl-C is one line also while its modules are still read."""
    try:
        from fertiray.cli import main as run
    except KeyboardInterrupt:
        print("fertiray: interrupted before it began; give the same command", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
