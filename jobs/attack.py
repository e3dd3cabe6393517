"""One step of a study: adversarial images made on the base network (III-B).

    ray submit cluster.yaml jobs/attack.py -- cifar10 --data /data --results /shared/results

Takes the arguments of `harness attack`; runs on the Ray cluster that it finds, else on this machine.
"""

from harness.cli.job import run

if __name__ == "__main__":
    run("attack")
