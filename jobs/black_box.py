"""One step of a study: every network on adversarial images made on the base network (Tables IV-VII).

    ray submit cluster.yaml jobs/black_box.py -- cifar10 --data /data --results /shared/results

Takes the arguments of `harness black-box`; runs on the Ray cluster that it finds, else on this machine.
"""

from harness.cli.job import run

if __name__ == "__main__":
    run("black-box")
