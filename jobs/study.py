"""A whole study, all steps in order; what is finished is not done again.

    ray submit cluster.yaml jobs/study.py -- --study cifar10 --data /data --results /shared/results

Takes the arguments of `harness run`, the study's name with or without ``--study``; runs on the Ray
cluster that it finds, else on this machine.
"""

from harness.cli.job import run

if __name__ == "__main__":
    run("run")
