"""FertiRay: train, compare and bulk-score the models of reproductive medicine."""

import os

__version__ = "0.1.0"

# Threads of torch that wait for each other sleep instead of spinning. On cores of its own a process
# is as fast; beside another busy one, small steps are many times faster. OpenMP reads this as torch
# loads it, hence here, before torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
