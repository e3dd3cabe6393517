"""The bound, the attacks and the trainings measured against what users would pick instead.

    ray submit cluster.yaml jobs/benchmark.py -- --data /data --results /shared/results

Takes the arguments of `harness benchmark`; measures on the machine that it runs on.
"""

from harness.cli.job import run

if __name__ == "__main__":
    run("benchmark")
