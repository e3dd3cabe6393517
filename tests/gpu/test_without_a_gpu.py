"""On a GPU machine all tests but those marked for it run as on any other: see ``on_the_cpu``."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

TESTS = """
import pytest, torch
from conftest import tiny_study, run_study
from harness.networks.device import device
from harness.study.costs import workers_here

@pytest.fixture(scope="module")
def where():
    return device().type

def test_unmarked(where):
    assert (where, device().type, torch.cuda.device_count()) == ("cpu", "cpu", 0)

@pytest.mark.gpu
def test_marked(request):
    assert device().type == "cuda" and workers_here() == 3
"""
# torch as on a machine with three GPUs.
RUN = """
import sys, torch, pytest
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 3
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_only_marked_tests_meet_the_gpu(tmp_path):
    """The module's fixture is made in the first of them."""
    (tmp_path / "test_two.py").write_text(textwrap.dedent(TESTS))
    tests = Path(__file__).parents[1]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [
            *(sys.executable, "-c", RUN, "-p", "no:xdist", "-p", "conftest", "--rootdir", str(tmp_path)),
            *("-c", str(tests.parent / "pyproject.toml"), str(tmp_path)),
        ],
        env={**environment, "PYTHONPATH": os.pathsep.join([str(tests), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr
