"""One step of a study: whether each network's robustness numbers can be believed.

    ray submit cluster.yaml jobs/check.py -- cifar10 --data /data --results /shared/results

Takes the arguments of `harness check`; runs on the Ray cluster that it finds, else on this machine.
"""

from harness.cli.job import run

if __name__ == "__main__":
    run("check")
