"""One step of a study: the base network f1 (paper IV).

    ray submit cluster.yaml jobs/base_network.py -- cifar10 --data /data --results /shared/results

Takes the arguments of `harness base-network`; runs on the Ray cluster that it finds, else on this machine.
"""

import sys

from harness.cli import main

if __name__ == "__main__":
    main(["base-network", *sys.argv[1:]])
