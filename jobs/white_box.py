"""One step of a study: PGD against the base network and the strongest defended one (V-E).

    ray submit cluster.yaml jobs/white_box.py -- cifar10 --data /data --results /shared/results

Takes the arguments of `harness white-box`; runs on the Ray cluster that it finds, else on this machine.
"""

from harness.cli.job import run

if __name__ == "__main__":
    run("white-box")
