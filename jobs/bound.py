"""One step of a study: the bound of every image (paper III-A).

    ray submit cluster.yaml jobs/bound.py -- cifar10 --data /data --results /shared/results

Takes the arguments of `harness bound`; runs on the Ray cluster that it finds, else on this machine.
"""

from harness.cli.job import run

if __name__ == "__main__":
    run("bound")
