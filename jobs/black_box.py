"""One step of a study: every network on f1's adversarial images (Tables IV-VII).

    ray submit cluster.yaml jobs/black_box.py -- cifar10 --data /data --results /shared/results

Takes the arguments of `harness black-box`; runs on the Ray cluster that it finds, else on this machine.
"""

from harness.job import run

if __name__ == "__main__":
    run("black-box")
