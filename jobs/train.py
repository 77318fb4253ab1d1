"""Training as a Ray job.

    ray job submit --working-dir . -- python jobs/train.py --paper P --data D --out C --workers 4

D and C are local to the cluster's nodes or ``s3://``. The arguments are those of ``fertiray
train``; ``fertiray submit train`` sends the same job.
"""

import argparse

from fertiray.cli import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="A training on this job's cluster.", add_help=False
    )
    parser.add_argument("--paper", required=True, help="key of the paper")
    parser.add_argument("--workers", default="1", help="Ray Train workers")
    known, others = parser.parse_known_args()
    main(["train", known.paper, "--workers", known.workers, *others])
