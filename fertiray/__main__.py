"""``python -m fertiray`` is the ``fertiray`` command."""

from fertiray.cli import main

if __name__ == "__main__":
    main()
