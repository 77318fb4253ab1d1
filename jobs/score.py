"""Bulk scoring as a Ray job.

    ray job submit --working-dir . -- python jobs/score.py STORE --checkpoint C --out RUN

STORE, C and RUN are local to the cluster's nodes or ``s3://``. The arguments are those of
``fertiray score``; ``fertiray submit score`` sends the same job.
"""

import sys

from fertiray.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
