"""Where a process computes: on the GPU that is there, else it says so; in arithmetic that repeats."""

import subprocess
import sys

import pytest
import torch
from conftest import Silence
from torch import distributed, nn

from harness import nvidia
from harness.errors import HarnessError
from harness.library import attack as library
from harness.networks import device
from harness.networks.classifier import Classifier
from harness.networks.training import Training, TrainingSettings
from harness.pipeline.run import prepare, run_steps
from harness.results.cells import hardware
from harness.results.store import Store
from harness.study.reading import build

TOO_OLD = "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver"
GPU = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes a machine whose driver, if it has one, says some lines, and whose torch finds it too old."""

    def made(says=None, visible=None, ends_with=0):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        if says is not None:
            program = tmp_path / "nvidia-smi"
            lines = "".join(f"echo '{line}'\n" for line in says)
            program.write_text(f"#!/bin/sh\n{lines}exit {ends_with}\n")
            program.chmod(0o755)

    def too_old():
        raise RuntimeError(f"{TOO_OLD} by downloading it.\nMore advice.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", too_old)
    nvidia.driver.cache_clear()
    yield made
    nvidia.driver.cache_clear()


def test_no_driver_no_share_no_gpu(machine):
    machine()
    assert device.device() == torch.device("cpu")
    assert not {"gpus", "driver", "cuda", "cudnn"} & {*hardware(), *device.cuda_versions()}


def test_a_driver_that_answers_while_torch_has_no_gpu_is_an_error(machine):
    machine([f"550.54.15, {GPU}", f"550.54.15, {GPU}"])
    with pytest.raises(HarnessError) as caught:
        device.device()
    said = str(caught.value)
    assert said.startswith(f"expected a GPU: NVIDIA's driver 550.54.15 answers for {GPU}, {GPU}. torch ")
    assert TOO_OLD in said and "More advice" not in said
    assert "driver 580 or newer" in said and "CUDA_VISIBLE_DEVICES=)" in said


def test_a_share_of_a_gpu_while_torch_has_none_is_an_error(machine):
    """Ray gives it by this variable, whether or not a driver answers here."""
    machine(visible="3")
    with pytest.raises(HarnessError, match=r"this process was given GPU 3 \(CUDA_VISIBLE_DEVICES\).*too old"):
        device.device()


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hidden_gpus_are_not_asked_for(machine, visible):
    machine([f"580.95.05, {GPU}"], visible)
    assert device.device() == torch.device("cpu")


@pytest.mark.parametrize("says", [[], ["No devices were found"]])
def test_a_driver_without_a_gpu(machine, says):
    machine(says)
    assert device.device() == torch.device("cpu")


def test_a_driver_that_fails(machine):
    machine([f"580.95.05, {GPU}"], ends_with=9)
    assert device.device() == torch.device("cpu")


def test_facts_of_a_gpu(machine, monkeypatch):
    machine([f"580.95.05, {GPU}", "580.95.05, NVIDIA L4"])
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92600)
    facts = {**hardware(), **device.cuda_versions()}
    assert (facts["gpus"], facts["driver"]) == ([GPU, "NVIDIA L4"], "580.95.05")
    assert (facts["cuda"], facts["cudnn"]) == ("13.2", "92600")


@pytest.mark.skipif(not torch.version.cuda, reason="this torch is built for CPUs")
def test_cells_name_the_machines_gpu(machine, tiny, tmp_path):
    """Those of the process that was started, and a training's: whatever they were computed on."""
    machine([f"580.95.05, {GPU}"], visible="")
    run = prepare(build(tiny), Store(tmp_path / "results"), None, Silence())
    run_steps(run, ("bound", "base-network"))
    for cell in (run.plan.bounds["test"], run.plan.bases[0].cell):
        facts = run.store.metadata(cell.path)["facts"]
        assert (facts["gpus"], facts["driver"]) == ([GPU], "580.95.05")
        assert facts["cuda"] == torch.version.cuda and facts["cudnn"]


FLAGS = ("allow_tf32", "benchmark", "deterministic")


def flags():
    return tuple(getattr(torch.backends.cudnn, name) for name in FLAGS), torch.backends.cuda.matmul.allow_tf32


def test_arithmetic_is_full_and_repeats():
    code = (
        "import torch; from harness.networks.device import device; device(); cudnn = torch.backends.cudnn; "
        "print(cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, torch.backends.cuda.matmul.allow_tf32)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True", "False"]


def test_the_library_leaves_the_users_arithmetic_as_it_was(monkeypatch):
    """And asks for no GPU: the network is where its user put it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for name, value in zip(FLAGS, (True, True, False), strict=True):
        monkeypatch.setattr(torch.backends.cudnn, name, value)
    before = flags()
    with library._full_precision():
        assert flags() == ((False, False, True), False)
    assert flags() == before


@pytest.mark.parametrize("keeps", [False, True])
def test_ranks_send_each_other_no_constants(keeps):
    """Mean and std are the same on all of them; what another's code keeps in its body may not be."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    if keeps:
        body.register_buffer("seen", torch.zeros(1))
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        network = Classifier(body, (0.5,), (1.0,))
        training = Training(network, None, TrainingSettings(epochs=1), 0, None, world=2)
    finally:
        distributed.destroy_process_group()
    assert training._wrapped.broadcast_buffers is keeps
