"""Attacks: images within their word, that follow from what they are given, and nothing else touched."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.attacks.attack import Attack, Protocol, perturb
from harness.attacks.batch import logits, margin
from harness.checks.check import Check, Finding, held
from harness.checks.network import few, weights_of
from harness.data.datasets import Images
from harness.networks.classifier import Classifier, as_input, to_tensor
from harness.networks.device import device
from harness.settings import epsilon_text

_SEED = 1


@dataclass(frozen=True)
class Observed:
    """One call of an attack: its images for each radius, its time, and what it left otherwise than it was."""

    images: list[Tensor]
    seconds: float
    arguments: list[str]
    network: list[str]
    process: list[str]


@dataclass(frozen=True)
class AttackCase:
    """An attack to check on a network of its own, with a few images.

    ``block`` of the study's images are attacked at once, in at most ``block_limit_s``.
    """

    attack: Attack
    make_network: Callable[[], Classifier]
    images: Images
    protocol: Protocol
    block: int
    block_limit_s: float

    @cached_property
    def network(self) -> Classifier:
        return self.make_network()

    @cached_property
    def settings(self) -> Attack:
        """The attack at the smallest and the largest of its radii."""
        radii = [epsilon for epsilon in self.attack.epsilons if epsilon is not None]
        return (
            self.attack.with_epsilons(tuple(dict.fromkeys((min(radii), max(radii)))))
            if radii
            else self.attack
        )

    @cached_property
    def x(self) -> Tensor:
        """The images, float32 [B, C, H, W] in [0, 1]."""
        return as_input(to_tensor(self.images.pixels, device()))

    @cached_property
    def start(self) -> Tensor:
        """The classes int64 [B] that they are to leave."""
        if self.protocol == "label":
            return to_tensor(self.images.labels, device())
        return logits(self.network, self.x, len(self.x)).argmax(1)

    def perturbed(self, which: slice, batch_size: int) -> list[Tensor]:
        """Some of the images, for each radius."""
        ids = to_tensor(self.images.ids, device())
        given = (self.x[which], self.start[which], ids[which])
        return perturb(self.network, *given, self.settings, _SEED, batch_size)

    @cached_property
    def first(self) -> Observed:
        """All images in one batch."""
        ids = to_tensor(self.images.ids, device())
        given = {"images": self.x.clone(), "labels": self.start.clone(), "ids": ids}
        copies = {name: value.clone() for name, value in given.items()}
        network, process = _network_state(self.network), _process_state()
        began = time.perf_counter()
        made = perturb(self.network, **given, settings=self.settings, seed=_SEED, batch_size=len(ids))
        seconds = time.perf_counter() - began
        arguments = [name for name, value in given.items() if not torch.equal(value, copies[name])]
        return Observed(
            made,
            seconds,
            arguments,
            _changed(network, _network_state(self.network)),
            _changed(process, _process_state()),
        )


def _network_state(network: Classifier) -> dict[str, Any]:
    """What an attack may not change, by what messages call it."""
    state: dict[str, Any] = {f"weights {name}": state for name, state in weights_of(network).items()}
    for name, parameter in network.named_parameters():
        state[f"requires_grad of {name}"] = parameter.requires_grad
        state[f"grad of {name}"] = parameter.grad is None
    for name, module in network.named_modules():
        state[f"mode of {name or 'the network'}"] = module.training
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        state[f"hooks of {name or 'the network'}"] = [tuple(registered) for registered in hooks]
    return state


def _process_state() -> dict[str, Any]:
    return {
        "torch's generator": torch.random.get_rng_state().numpy().tobytes(),
        "numpy's generator": repr(np.random.get_state()),
        "random's generator": random.getstate(),
        "torch's threads": torch.get_num_threads(),
        "torch's default type": torch.get_default_dtype(),
        "torch's mode of gradients": torch.is_grad_enabled(),
    }


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


# --- the checks -------------------------------------------------------------------------------------


def _images(case: AttackCase) -> Finding:
    """What the door itself finds: ``attacks.perturb`` raises for all else."""
    radii = [epsilon_text(epsilon) for epsilon in case.settings.epsilons if epsilon is not None]
    came = f"{case.settings.norm} {' and '.join(radii)}" if radii else "no radius"
    return Finding("ok", f"{len(case.first.images[0])} images, {came}")


def _arguments(case: AttackCase) -> Finding:
    return held(not case.first.arguments, f"changes of {', '.join(case.first.arguments)}")


def _network(case: AttackCase) -> Finding:
    return held(not case.first.network, f"changes of {few(case.first.network)}")


def _process(case: AttackCase) -> Finding:
    return held(not case.first.process, f"changes of {', '.join(case.first.process)}")


def _deterministic(case: AttackCase) -> Finding:
    again = case.perturbed(slice(None), len(case.x))
    return _same(case.first.images, again, case)


def _batches(case: AttackCase) -> Finding:
    half = -(-len(case.x) // 2)
    together = case.perturbed(slice(None), half)
    # The second half first: what a batch left behind must not reach another.
    parts = [case.perturbed(part, half) for part in (slice(half, None), slice(half))]
    apart = [torch.cat([first, second]) for second, first in zip(*parts, strict=True)]
    return _same(together, apart, case)


def _same(made: list[Tensor], again: list[Tensor], case: AttackCase) -> Finding:
    """Bit for bit, for every radius."""
    for one, other, epsilon in zip(made, again, case.settings.epsilons, strict=True):
        differing = (one != other).flatten(1).any(1)
        if differing.any():
            at = "" if epsilon is None else f" at epsilon {epsilon_text(epsilon)}"
            largest = (one - other).abs().max().item()
            return Finding(
                "failed", f"{int(differing.sum())} of {len(one)} that differ by up to {largest:.2g}{at}"
            )
    return Finding("ok")


def _effect(case: AttackCase) -> Finding:
    """At the largest radius. On a network without training few images leave, but margins still fall."""
    made = case.first.images[-1]
    changed = int((made != case.x).flatten(1).any(1).sum())
    before, after = (margin(logits(case.network, x, len(x)), case.start) for x in (case.x, made))
    left = int((after < 0).sum())
    came = f"{changed} of {len(made)} changed, {left} left their class, "
    came += f"mean margin {before.mean().item():.2g}, then {after.mean().item():.2g}"
    has_effect = changed and (left or after.mean() < before.mean())
    return Finding("ok" if has_effect else "note", came)


def _time(case: AttackCase) -> Finding:
    each = case.first.seconds / len(case.first.images)
    block_s = each * len(case.attack.epsilons) * case.block / len(case.x)
    came = f"{case.first.seconds:,.2f} s, at which a block of {case.block} images takes {block_s:,.2f} s"
    if case.attack.is_limited and block_s > case.block_limit_s:
        return Finding(
            "note", f"{came} and is stopped after {case.block_limit_s:g} s (compute.block_limit_s)"
        )
    return Finding("ok", came)


ATTACK_CHECKS: tuple[Check[AttackCase], ...] = (
    Check("images", "images like those given, in [0, 1] and within the ball", _images),
    Check("arguments", "images, labels and ids that were given as they were", _arguments, ("images",)),
    Check("network", "the network as it was: weights, gradients, mode, hooks", _network, ("images",)),
    Check("process", "generators and torch's settings as they were", _process, ("images",)),
    Check(
        "repeat",
        "the same images of the same seed, bit for bit",
        _deterministic,
        ("images", "arguments", "network"),
    ),
    Check(
        "batches",
        "the same images, whatever batches came before",
        _batches,
        ("images", "arguments", "network", "repeat"),
    ),
    Check(
        "effect",
        "images that are changed, and leave their class or come closer to that",
        _effect,
        ("images",),
    ),
    Check("time", "a block within its limit", _time, ("images",)),
)
