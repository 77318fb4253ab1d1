"""A study as a Ray job.

    ray job submit --working-dir . -- python jobs/tune.py PAPER --grid NAME --data D --out O

D and O are local to the cluster's nodes or ``s3://``. The arguments are those of ``fertiray tune``;
``fertiray submit tune`` sends the same job.
"""

import sys

from fertiray.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
