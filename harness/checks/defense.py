"""Defenses: a loss for each sample, made from what the defense declares, that trains a network."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from harness.checks.check import Check, Finding, difference, held
from harness.checks.network import weights_of
from harness.data.datasets import Images
from harness.defenses.defense import Defense
from harness.errors import Failed
from harness.networks.build import build
from harness.networks.classifier import Classifier, to_tensor
from harness.networks.convnet import ConvNet
from harness.networks.device import device
from harness.networks.objective import Inputs, InTraining, Needs, Objective
from harness.networks.training import Training

_SEED = 1
_SAMPLES = 16  # whose losses are looked at
_DISTANCE = 0.1  # made up: in the order of those of digits
_ROUNDING = 1e-3  # of the largest loss; inner attacks enlarge what another order of summation changes
_PARTS = ("bound", "base_outputs", "other_bases")  # of ``Needs``: what a mark may declare


@dataclass(frozen=True)
class DefenseCase:
    """A defense to check on a small network of the harness's own, with a few images; single settings."""

    defense: Defense
    images: Images
    classes: int

    def network(self, seed: int = 0) -> Classifier:
        """In eval mode, so that dropout is off; its weights take gradients."""
        architecture = ConvNet(architecture="convnet", width=4)
        return build(architecture, self.images.pixels, self.classes, seed).to(device()).eval()

    @cached_property
    def _all(self) -> Inputs:
        """Whatever a defense may declare; handed out as copies, for who gets it may change it."""
        pixels, labels, ids = (
            to_tensor(values, device())
            for values in (self.images.pixels, self.images.labels, self.images.ids)
        )
        inputs = Inputs(pixels, labels, ids)
        clean = inputs.clean(torch.arange(len(ids), device=device()))
        bases = tuple(self.network(seed).requires_grad_(False) for seed in (1, 2))
        with torch.no_grad():
            # Of another network than the one in training, or there would be nothing to learn from them.
            outputs = log_softmax(bases[0](clean), dim=1)
        distance = _DISTANCE * (1 + torch.arange(len(ids), device=device()) / len(ids))
        return replace(inputs, distance=distance, base_outputs=outputs, adversarial=clean, other_bases=bases)

    def inputs(self, needs: Needs) -> Inputs:
        """Clean images and labels, and what is declared."""
        every = deepcopy(self._all)
        return replace(
            every,
            distance=every.distance if needs.bound else None,
            base_outputs=every.base_outputs if needs.base_outputs else None,
            adversarial=every.adversarial if needs.images_of else None,
            other_bases=every.other_bases if needs.other_bases else (),
        )

    def objective(self, inputs: Inputs | None = None) -> Objective:
        return self.defense.objective(inputs or self.inputs(self.defense.needs()), _SEED)

    def samples(self, objective: Objective) -> Tensor:
        """Evenly over all, the first and the last among them."""
        count = min(objective.samples, _SAMPLES)
        return torch.linspace(0, objective.samples - 1, count, dtype=torch.float64).long().to(device())

    def losses(self, objective: Objective, indices: Tensor, network: Classifier | None = None) -> Tensor:
        """As in the first epoch, but in eval mode."""
        network = network or self.network()
        with torch.enable_grad():
            return objective.loss(InTraining(network, network, device(), "float32"), indices, 1)

    def values(self, objective: Objective, indices: Tensor) -> Tensor:
        """The same, without their graph."""
        return self.losses(objective, indices).detach()


# --- the checks -------------------------------------------------------------------------------------


def _needs(case: DefenseCase) -> Finding:
    """What is used and not declared, and the other way round. Faults that neither explains are for others."""
    declared = case.defense.needs()
    reason = _failure(case, declared)
    if reason is not None:
        undeclared = [part for part in _PARTS if not getattr(declared, part)]
        lacking = [part for part in undeclared if not _failure(case, _with(declared, {part: True}))]
        if not lacking and not _failure(case, _with(declared, dict.fromkeys(undeclared, True))):
            lacking = undeclared
        return held(not lacking, f"use of {', '.join(lacking)}, which it does not declare: {reason}")
    for part in ("bound", "base_outputs"):
        if getattr(declared, part) and not _failure(case, _with(declared, {part: False})):
            return Finding("note", f"'{part}' declared, and the same loss without it")
    return Finding("ok")


def _with(needs: Needs, changes: dict[str, Any]) -> Needs:
    return replace(needs, **changes)


def _failure(case: DefenseCase, needs: Needs) -> str | None:
    """Why there are no losses with these inputs; None where there are."""
    try:
        objective = case.objective(case.inputs(needs))
        case.losses(objective, case.samples(objective))
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        return Failed.of(error).reason
    return None


def _objective(case: DefenseCase) -> Finding:
    return Finding("ok", f"{case.objective().samples} samples of {len(case.images.ids)} images")


def _loss(case: DefenseCase) -> Finding:
    objective = case.objective()
    indices = case.samples(objective)
    losses = case.losses(objective, indices)
    if not isinstance(losses, Tensor):
        return Finding("failed", type(losses).__name__)
    if losses.shape != indices.shape or not losses.is_floating_point():
        return Finding("failed", f"{losses.dtype} {list(losses.shape)} for {len(indices)} samples")
    if not losses.isfinite().all():
        return Finding("failed", f"values that are not finite: {losses.tolist()[:3]}")
    return Finding("ok", f"{losses.min().item():.3g} to {losses.max().item():.3g}")


def _gradients(case: DefenseCase) -> Finding:
    objective, network = case.objective(), case.network()
    losses = case.losses(objective, case.samples(objective), network)
    if not losses.requires_grad:
        return Finding("failed", "losses that are cut off from the network's weights")
    losses.mean().backward()
    gradients = [value.grad for value in network.parameters() if value.grad is not None]
    if not all(gradient.isfinite().all() for gradient in gradients):
        return Finding("failed", "values that are not finite")
    return held(any(gradient.any() for gradient in gradients), "0 for all of them")


def _calls(case: DefenseCase) -> Finding:
    """Of the network in training, not of ``frozen``."""
    objective, network, count = case.objective(), case.network(), 0

    class Counted(InTraining):
        def __call__(self, images: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return super().__call__(images)

    objective.loss(Counted(network, network, device(), "float32"), case.samples(objective), 1)
    if count == 1:
        return Finding("ok")
    return Finding("note", f"{count}: several workers average the gradients of one call alone")


def _deterministic(case: DefenseCase) -> Finding:
    objective = case.objective()
    indices = case.samples(objective)
    change = difference(case.values(objective, indices), case.values(objective, indices))
    return held(change == 0, f"a difference of {change:.2g} of the largest")


def _resumed(case: DefenseCase) -> Finding:
    first = case.objective()
    indices = case.samples(first)
    change = difference(case.values(first, indices), case.values(case.objective(), indices))
    return held(change == 0, f"a difference of {change:.2g} of the largest")


def _independent(case: DefenseCase) -> Finding:
    objective = case.objective()
    indices = case.samples(objective)
    together = case.values(objective, indices)
    alone = torch.cat([case.values(objective, index) for index in indices.split(1)])
    turned = case.values(objective, indices.flip(0)).flip(0)
    change = max(difference(together, alone), difference(together, turned))
    return held(change <= _ROUNDING, f"a difference of {change:.2g} of the largest")


def _training(case: DefenseCase) -> Finding:
    """Two epochs as in a study: in training mode, with its arithmetic, batch size and rate."""
    network = case.network()
    before = {name: value.clone() for name, value in network.named_parameters()}
    training = Training(network, case.objective(), case.defense, _SEED, case.images)
    training.start()
    losses = [training.run_epoch()["loss"] for _ in range(2)]
    after = dict(training.network.named_parameters())
    if not all(value.isfinite().all() for value in after.values()):
        return Finding("failed", "weights that are not finite")
    if all(torch.equal(value, after[name]) for name, value in before.items()):
        return Finding("failed", "the weights that it started with")
    return Finding("ok", f"loss {losses[0]:.3g}, then {losses[1]:.3g}")


def _inputs(case: DefenseCase) -> Finding:
    """Tensors by value; the other networks by their weights, gradients and mode."""
    given, before = (case.inputs(case.defense.needs()) for _ in range(2))
    bases = [_state(base) for base in given.other_bases]
    objective = case.objective(given)
    losses = case.losses(objective, case.samples(objective))
    if losses.requires_grad:
        losses.mean().backward()
    values = dict(_tensors(before))
    changed = [name for name, value in _tensors(given) if not torch.equal(value, values[name])]
    if bases != [_state(base) for base in given.other_bases]:
        changed.append("other_bases")
    return held(not changed, f"changes of {', '.join(changed)}")


def _tensors(inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
    for field in fields(inputs):
        value = getattr(inputs, field.name)
        if isinstance(value, Tensor):
            yield field.name, value


def _state(network: Classifier) -> tuple[object, ...]:
    trained = [(value.requires_grad, value.grad is None) for value in network.parameters()]
    return weights_of(network), trained, [module.training for module in network.modules()]


_CALLED = ("needs", "objective", "loss")
DEFENSE_CHECKS: tuple[Check[DefenseCase], ...] = (
    Check("needs", "a mark that declares what it uses, and no more", _needs),
    Check("objective", "an Objective of at least one sample", _objective, ("needs",)),
    Check("loss", "a finite float for each sample", _loss, ("needs", "objective")),
    Check("gradients", "finite gradients of the weights, not all 0", _gradients, _CALLED),
    Check("inputs", "its inputs and the other networks as they were", _inputs, _CALLED),
    Check("calls", "one call of the network in a step", _calls, _CALLED),
    Check("repeat", "the same losses of the same samples and epoch", _deterministic, (*_CALLED, "inputs")),
    Check(
        "resumed",
        "the same losses of an objective made again from the same seed",
        _resumed,
        (*_CALLED, "inputs", "repeat"),
    ),
    Check(
        "company",
        f"losses within {_ROUNDING:g}, whatever other samples are in the batch",
        _independent,
        (*_CALLED, "inputs", "repeat"),
    ),
    Check("training", "two epochs that change the weights", _training, (*_CALLED, "gradients")),
)
