"""One step of a study: adversarial images made on f1 (III-B).

    ray submit cluster.yaml jobs/attack.py -- cifar10 --data /data --results /shared/results

Takes the arguments of `harness attack`; runs on the Ray cluster that it finds, else on this machine.
"""

from harness.job import run

if __name__ == "__main__":
    run("attack")
