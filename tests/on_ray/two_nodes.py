"""Two Ray nodes on this machine, each with one CPU: a head and another that can be killed.

Prints the cluster's address; then reads ``kill`` and ``add`` from stdin, and answers when done.
With the argument ``growing`` the head has no CPU and is alone, and added nodes have a GPU, so to
speak, as where an autoscaler brings them.
"""

import sys

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    growing = sys.argv[1:] == ["growing"]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": int(not growing)})
    resources = {"num_cpus": 1, "num_gpus": int(growing)}
    other = None if growing else cluster.add_node(**resources)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(other, allow_graceful=False)
        else:
            other = cluster.add_node(**resources)
        print("done", flush=True)
    cluster.shutdown()
