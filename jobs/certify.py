"""One step of a study: certified radii of each network, where the study asks for them.

    ray submit cluster.yaml jobs/certify.py -- cifar10 --data /data --results /shared/results

Takes the arguments of `harness certify`; runs on the Ray cluster that it finds, else on this machine.
"""

from harness.cli.job import run

if __name__ == "__main__":
    run("certify")
