"""Packages as others write them: in a folder of the test's own, found as with ``--code``; forgotten after."""

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import extensions
from harness.extensions import code

_number = itertools.count()

NETWORK = """
from torch import nn
from harness import extensions

@extensions.network(title="Linear")
def linear(channels, size, classes, *, width: int = 8):
    inputs = channels * size[0] * size[1]
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))
"""

ATTACK = """
import random
import numpy as np
import torch
from harness import extensions

@extensions.attack(norm="linf", cost=lambda settings: settings["steps"], title="Noise")
def noise(network, images, labels, ids, seed, *, epsilon: float, steps: int = 2):
    for _ in range(steps):
        noise = torch.rand_like(images) + random.random() + float(np.random.rand())
        images.add_((noise - 1.5).sign() * epsilon / steps).clamp_(0, 1)
    return images
"""

DEFENSE = """
from typing import Annotated
from pydantic import Field
from harness import extensions
from harness.networks.objective import Inputs, Objective, cross_entropy
from harness.settings import GRID

@extensions.defense(base_outputs=True, samples_per_image=lambda settings: settings["copies"])
def smooth(inputs: Inputs, seed: int, *, epsilon: float, copies: Annotated[int, Field(ge=1), *GRID] = 1,
           kind: str = "flat") -> Objective:
    def loss(network, indices, epoch):
        image = indices % len(inputs.pixels)
        return cross_entropy(network(inputs.clean(image)), inputs.labels[image]) * (1 - epsilon)
    return Objective(copies * len(inputs.pixels), loss)
"""


class Outside:
    """A folder outside the harness, searched for packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[str] = []

    def package(self, **modules: str) -> str:
        """A new package of these modules' sources; its name, which no other test has."""
        name = f"outside_{next(_number)}"
        self.made.append(name)
        for module, source in {"__init__": "", **modules}.items():
            path = self.folder / name / f"{module}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        return name

    def module(self, source: str) -> str:
        """The same for a package that is a single file."""
        name = f"outside_{next(_number)}"
        self.made.append(name)
        (self.folder / f"{name}.py").write_text(source)
        return name

    def installed(self, package: str, entry_points: str) -> None:
        """Metadata as an installer leaves them."""
        folder = self.folder / f"{package.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(entry_points)


@contextmanager
def outside_of(folder: Path) -> Iterator[Outside]:
    """Such a folder, searched meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(code, "_folders", [])
        extensions.code_folder([folder])
        there = Outside(folder)
        yield there
        for name in list(sys.modules):
            if name.partition(".")[0] in there.made:
                del sys.modules[name]
