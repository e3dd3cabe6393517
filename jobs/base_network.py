"""One step of a study: the base network (paper IV).

    ray submit cluster.yaml jobs/base_network.py -- cifar10 --data /data --results /shared/results

Takes the arguments of `harness base-network`; runs on the Ray cluster that it finds, else on this machine.
"""

from harness.cli.job import run

if __name__ == "__main__":
    run("base-network")
