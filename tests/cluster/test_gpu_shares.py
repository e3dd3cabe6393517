"""Workers with a share of a GPU that torch can't use: each step says so, with torch's reason."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import tiny_study

# Ray is told of a GPU, as on a machine whose driver is too old for torch's CUDA.
STUDY = """
import json, sys
import ray
from conftest import Silence
from harness.errors import HarnessError
from harness.pipeline.run import prepare, run_steps
from harness.results.store import Store
from harness.study.reading import build

ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, object_store_memory=150_000_000,
         log_to_driver=False, logging_level="ERROR")
run = prepare(build(json.loads(sys.argv[1])), Store(sys.argv[2]), None, Silence())
try:
    run_steps(run, ("bound",))
except HarnessError as error:
    print(json.dumps(str(error)))
run_steps(run, ("base-network",))
print(json.dumps([failure.reason for failure in run.failed.values()]))
print(json.dumps(list(map(str, run.store.files()))))
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="here torch has a GPU")
def test_a_worker_with_a_share_and_without_a_gpu(tmp_path):
    study = json.dumps({**tiny_study(), "compute": {"workers": 1}})
    # Of the tests that need no GPU: Ray would take it for a machine whose GPUs are not to be used.
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", STUDY, study, str(tmp_path)],
        env={**environment, "RAY_ADDRESS": "", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    bound, trainings, files = map(json.loads, done.stdout.splitlines()[-3:])
    for said in (bound, *trainings):
        assert said.startswith("expected a GPU: this process was given GPU 0 (CUDA_VISIBLE_DEVICES)")
        assert "NVIDIA" in said.split("has none: ")[1]  # torch's own reason
    assert len(trainings) == 1 and not files
