"""Training as a Ray job.

    ray job submit --working-dir . -- python jobs/train.py --paper P --data D --out C --workers 4

D and C are local to the cluster's nodes or ``s3://``. The other arguments are those of
``fertiray train``; ``fertiray submit train`` sends the same job.
"""

import sys

from fertiray.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
