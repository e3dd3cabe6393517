"""One step of a study: attacks made against each network itself (V-E).

    ray submit cluster.yaml jobs/white_box.py -- cifar10 --data /data --results /shared/results

Takes the arguments of `harness white-box`; runs on the Ray cluster that it finds, else on this machine.
"""

from harness.cli.job import run

if __name__ == "__main__":
    run("white-box")
