"""Ray is left whole: Ctrl-C waits until it is."""

import subprocess
import sys

CODE = """
import signal, sys
import ray
from fertiray.on_ray.cluster import cluster

signal.signal(signal.SIGINT, signal.default_int_handler)
disconnect = ray._private.worker.disconnect

def pressed(*given):
    signal.raise_signal(signal.SIGINT)
    disconnect(*given)
    print("disconnected", flush=True)

try:
    with cluster(quiet=True):
        ray._private.worker.disconnect = pressed
    print("not interrupted")
except KeyboardInterrupt:
    print("interrupted", ray.is_initialized(), ray._private.worker._global_node)
    sys.exit(130)
"""


def test_ctrl_c_while_ray_is_left_comes_after_it():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.stdout == "disconnected\ninterrupted False None\n", done.stderr
    assert done.returncode == 130
