"""One step of a study: adversarial training (V-D).

    ray submit cluster.yaml jobs/baselines.py -- cifar10 --data /data --results /shared/results

Takes the arguments of `harness baselines`; runs on the Ray cluster that it finds, else on this machine.
"""

from harness.cli.job import run

if __name__ == "__main__":
    run("baselines")
