"""One step of a study: the (k, n) grid of defended networks (III-C).

    ray submit cluster.yaml jobs/defense.py -- cifar10 --data /data --results /shared/results

Takes the arguments of `harness defense`; runs on the Ray cluster that it finds, else on this machine.
"""

from harness.cli.job import run

if __name__ == "__main__":
    run("defense")
