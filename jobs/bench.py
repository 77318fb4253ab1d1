"""A measurement as a Ray job.

    ray job submit --working-dir . -- python jobs/bench.py train --json

The arguments are those of ``fertiray bench``; ``fertiray submit bench`` sends the same job.
"""

import sys

from fertiray.cli import main

if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
