"""The attacks: one function each with the same head, and one dict that names them all.

Images are float32 [B, C, H, W] in [0, 1]; networks take such images and return logits [B, classes].
Every image's path is its own: its own stopping, constants and draws (keyed on seed and image id), so
how images are grouped changes nothing but the order of summation inside the network's kernels.
Images that are done leave the batch, and one forward pass serves the stop test and the gradient.

What an attack says of its own success is not used: predictions and ``norms`` are measured afterwards.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import seeds
from harness.errors import did_you_mean
from harness.spec import AttackSpec, CwL2, DeepFool, Fgsm, Jsma, JsmaPairs, Pgd

# (network, images, labels = classes to leave, ids, settings, seed) -> one batch per epsilon of the
# settings, in their order; a single one for attacks that look for the smallest perturbation.
Attack = Callable[[nn.Module, Tensor, Tensor, Tensor, Any, int], list[Tensor]]

_DEEPFOOL_TOLERANCE = 1e-7  # keeps ART's (10e-8) divisions finite where two classes have equal gradients
_TANH_MARGIN = 0.999999  # Carlini's code: pixels at 0 and 1 stay at a finite place of tanh space
_LINF_TOLERANCE = 1e-6  # float32 rounding of x + epsilon


def fgsm(network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, settings: Fgsm, seed: int) -> list[Tensor]:
    """Fast gradient sign method: Goodfellow et al. 2015, section 4. One gradient serves all epsilons."""
    x = images.clone().requires_grad_()
    direction = _gradient(functional.cross_entropy(network(x), labels, reduction="sum"), x).sign()
    return [(images + epsilon * direction).clamp(0, 1) for epsilon in settings.epsilon]


def pgd(network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, settings: Pgd, seed: int) -> list[Tensor]:
    """Projected gradient descent, l-inf: Madry et al. 2018, section 2.1, run by Foolbox.

    The random start is x + U(-epsilon, epsilon) with the same draw for every epsilon, so that an
    epsilon's result does not depend on which others are asked for.
    """
    from eagerpy.astensor import astensor
    from foolbox.attacks import LinfPGD
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    class KeyedStart(LinfPGD):
        """Foolbox draws the start from torch's global generator, by position; this one by image id."""

        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            draw = seeds.uniform(seed, ids, torch.zeros_like(ids), images[0].numel())
            return x0 + epsilon * astensor(2 * draw.view_as(images) - 1)

    model = PyTorchModel(network, bounds=(0, 1), device=images.device)
    result = []
    for epsilon in settings.epsilon:
        attack = KeyedStart(abs_stepsize=epsilon / settings.step_divisor, steps=settings.steps, random_start=settings.random_start)
        # run(), not attack(): the latter spends further passes on telling which images were fooled.
        result.append(attack.run(model, images, Misclassification(labels), epsilon=epsilon))
    return result


def deepfool(network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, settings: DeepFool, seed: int) -> list[Tensor]:
    """DeepFool, l2: Moosavi-Dezfooli et al. 2016, algorithm 2, with ART's clipping and overshoot.

    All classes are candidates; each step is clipped to [0, 1]; the overshoot stretches the total
    perturbation at the end. An image that the network does not put in ``labels`` is left as it is.
    """
    moved = images.clone()
    active = torch.arange(len(images), device=images.device)
    for _ in range(settings.steps):
        x = moved[active].requires_grad_()
        logits = network(x)
        staying = logits.argmax(1) == labels[active]
        if not staying.all():
            # One more forward pass is cheaper than one backward pass per class on images that are done.
            active = active[staying]
            if not len(active):
                break
            x = moved[active].requires_grad_()
            logits = network(x)
        classes = logits.shape[1]
        gradients = torch.stack([_gradient(logits[:, k].sum(), x, keep_graph=k + 1 < classes) for k in range(classes)], 1)
        rows, own = torch.arange(len(active), device=images.device), labels[active]
        with torch.no_grad():
            w = gradients - gradients[rows, own][:, None]
            f = (logits - logits[rows, own][:, None]).abs()
            length = w.flatten(2).norm(dim=2)
            distance = f / (length + _DEEPFOOL_TOLERANCE)
            distance[rows, own] = torch.inf
            nearest = distance.argmin(1)
            step = f[rows, nearest] / (length[rows, nearest] ** 2 + _DEEPFOOL_TOLERANCE)
            moved[active] = (x + step[:, None, None, None] * w[rows, nearest]).clamp(0, 1)
    return [(images + (1 + settings.overshoot) * (moved - images)).clamp(0, 1)]


def jsma_targets(labels: Tensor, ids: Tensor, classes: int, seed: int) -> Tensor:
    """Classes to reach, int64 [B]: uniform among those other than ``labels``, drawn by (seed, image id)."""
    if classes < 2:
        raise ValueError(f"a target other than the label needs 2 classes, got {classes}")
    draw = seeds.uniform(seed, ids, torch.zeros_like(ids), 1)[:, 0].double()
    return (labels + 1 + (draw * (classes - 1)).long()) % classes


def jsma(network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, settings: Jsma, seed: int) -> list[Tensor]:
    """Saliency map attack by ART's rule (``SaliencyMapMethod``): not Papernot's, see ``jsma_pairs``.

    Each step moves by theta the two values with the largest gradient of the target's logit among
    those that are not saturated. It ends at the target, when the share of changed values exceeds
    gamma (so by up to two values), or when all are saturated.
    """
    saturated = _saturation(settings.theta)
    targets = jsma_targets(labels, ids, _classes(network, images), seed)
    clean, moved = images.flatten(1), images.flatten(1).clone()
    active = torch.arange(len(images), device=images.device)
    while len(active):
        x, target = moved[active].requires_grad_(), targets[active]
        logits = network(x.view(-1, *images.shape[1:]))
        gradient = _gradient(logits.gather(1, target[:, None]).sum(), x) * math.copysign(1, settings.theta)
        with torch.no_grad():
            free, changed = x != saturated, (x != clean[active]).sum(1)
            going = (logits.argmax(1) != target) & (changed.double() / x.shape[1] <= settings.gamma) & free.any(1)
            pair = gradient.masked_fill(~free, -torch.inf).topk(2, dim=1).indices[going]
            active = active[going]
            moved[active[:, None], pair] = (x[going].gather(1, pair) + settings.theta).clamp(0, 1)
    return [moved.view_as(images)]


def jsma_pairs(network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, settings: JsmaPairs, seed: int) -> list[Tensor]:
    """Saliency map attack: Papernot et al. 2016, algorithm 3 with the pair search of algorithm 2.

    Each of at most floor(gamma * values / 2) steps moves by theta the pair of values with the largest
    saliency (equation 8, or 9 for negative theta; gradients of logits, as in the paper's section IV).
    Saturated values leave the search domain: with theta = 1 each is used once. It ends at the target
    or where no pair has a positive saliency.
    """
    saturated, sign = _saturation(settings.theta), math.copysign(1, settings.theta)
    targets = jsma_targets(labels, ids, _classes(network, images), seed)
    moved = images.flatten(1).clone()
    active = torch.arange(len(images), device=images.device)
    for _ in range(math.floor(settings.gamma * moved.shape[1] / 2 + 1e-9)):
        if not len(active):
            break
        x, target = moved[active].requires_grad_(), targets[active]
        logits = network(x.view(-1, *images.shape[1:]))
        wanted = logits.gather(1, target[:, None]).sum()
        toward = _gradient(wanted, x, keep_graph=True) * sign
        away = _gradient(logits.sum() - wanted, x) * -sign  # one pass for all other classes: only their sum counts
        with torch.no_grad():
            out = x == saturated
            pair, valid = best_pairs(toward.masked_fill(out, -torch.inf), away.masked_fill(out, -torch.inf))
            going = (logits.argmax(1) != target) & valid
            active, pair = active[going], pair[going]
            moved[active[:, None], pair] = (x[going].gather(1, pair) + settings.theta).clamp(0, 1)
    return [moved.view_as(images)]


def best_pairs(a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The pair (p, q) of each row with the largest (a_p + a_q)(c_p + c_q), both factors positive.

    ``a`` and ``c`` are [B, d], -inf where a value is out of the search domain. Returns the pairs,
    int64 [B, 2], and whether there is one, bool [B] (where not, the pair means nothing).

    Exact without looking at all pairs: let p have two others that are at least as good in both a and
    c. One of them is not q, and takes p's place at no loss. So both of some best pair have at most
    one such other, and only values like that (a few dozen of thousands) are paired.
    """
    # Sorted by a, those at least as good in a come before; one of them at most may have a c as large:
    # c must exceed the second largest c before it.
    a, order = a.sort(dim=1, descending=True, stable=True)
    c = c.gather(1, order)
    largest = c.cummax(1).values
    second = torch.minimum(c, _shifted(largest)).cummax(1).values
    position = torch.arange(a.shape[1], 0, -1, device=a.device)
    rank = torch.where(c > _shifted(second), position, 0)
    n = int((rank > 0).sum(1).max().clamp(min=1))
    rank, candidate = rank.topk(n, dim=1)  # in order of a; rows with fewer than n are filled up
    a, c = (value.gather(1, candidate).masked_fill(rank == 0, -torch.inf) for value in (a, c))
    alpha, beta = a[:, :, None] + a[:, None, :], c[:, :, None] + c[:, None, :]
    saliency = torch.where((alpha > 0) & (beta > 0), alpha * beta, 0).triu(diagonal=1)
    value, flat = saliency.flatten(1).max(1)
    return order.gather(1, candidate.gather(1, torch.stack([flat // n, flat % n], 1))), value > 0


def cw_l2(network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, settings: CwL2, seed: int) -> list[Tensor]:
    """Carlini & Wagner 2017, l2 (section VI-A), untargeted, with a binary search over c for each image.

    minimise |x - image|^2 + c * max(logit[label] - max of the others + confidence, 0), x = (tanh(w) + 1) / 2.
    Returns the nearest image found that leaves its label by more than ``confidence``; the clean image
    where none was found, or where it is there already.
    """
    best = images.clone()
    with torch.no_grad():
        attacked = (_lead(network(images), labels) + settings.confidence >= 0).nonzero()[:, 0]
    best_square = images.new_full((len(images),), torch.inf)
    constants, lower, upper = (images.new_full((len(images),), v) for v in (settings.initial_constant, 0.0, torch.inf))
    for _ in range(settings.binary_search_steps):
        active = attacked
        found = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        clean, label, constant = images[active], labels[active], constants[active]
        w = ((2 * clean - 1) * _TANH_MARGIN).atanh()
        mean, variance = torch.zeros_like(w), torch.zeros_like(w)
        previous = torch.full_like(constant, torch.inf)
        for step in range(settings.steps):
            if not len(active):
                break
            w.requires_grad_()
            x = (w.tanh() + 1) / 2
            square = (x - clean).square().flatten(1).sum(1)
            lead = _lead(network(x), label) + settings.confidence
            loss = square + constant * lead.clamp(min=0)
            gradient = _gradient(loss.sum(), w)
            with torch.no_grad():
                left = lead < 0
                found[active] |= left
                nearer = left & (square < best_square[active])
                best[active] = torch.where(nearer[:, None, None, None], x, best[active])
                best_square[active] = torch.where(nearer, square, best_square[active])
                # Adam (Kingma & Ba 2015, algorithm 1) with its default decay rates.
                mean = 0.9 * mean + 0.1 * gradient
                variance = 0.999 * variance + 0.001 * gradient.square()
                rate = settings.learning_rate / (1 - 0.9 ** (step + 1))
                w = w - rate * mean / ((variance / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
                if step % math.ceil(settings.steps / 10) == 0:
                    # As in Carlini's code, but by the image's own loss: the batch's sum would tie images together.
                    falling = loss <= 0.9999 * previous
                    previous = loss
                    state = (active, clean, label, constant, w, mean, variance, previous)
                    active, clean, label, constant, w, mean, variance, previous = (value[falling] for value in state)
        upper, lower = torch.where(found, constants, upper), torch.where(found, lower, constants)
        constants = torch.where(upper.isinf(), constants * 10, (lower + upper) / 2)
    return [best]


ATTACKS: dict[str, Attack] = {"fgsm": fgsm, "deepfool": deepfool, "jsma": jsma, "jsma_pairs": jsma_pairs, "cw_l2": cw_l2, "pgd": pgd}


def perturb(network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, settings: AttackSpec, seed: int) -> list[Tensor]:
    """The adversarial images of one attack: float32 [B, C, H, W] in [0, 1] on the images' device.

    ``images`` float32 [B, C, H, W] in [0, 1]; ``labels`` int64 [B], the classes to leave (true labels
    or the network's predictions); ``ids`` int64 [B], which key the draws. One batch per epsilon of the
    settings, in order; a single one for attacks that look for the smallest perturbation. The network
    is in eval mode, returns logits, and is left as it was found.

    Raises ValueError for inputs that cannot be attacked, RuntimeError for an attack that broke its word.
    """
    method = getattr(settings, "method", None)
    if method not in ATTACKS:
        raise ValueError(f"unknown attack method '{method}'{did_you_mean(str(method), ATTACKS)}")
    _check_inputs(network, images, labels, ids)
    with torch.enable_grad(), _frozen(network):
        result = [batch.detach() for batch in ATTACKS[method](network, images.detach(), labels, ids, settings, seed)]
    epsilons: tuple[float | None, ...] = getattr(settings, "epsilon", (None,))
    for batch, epsilon in zip(result, epsilons, strict=True):
        if batch.shape != images.shape or batch.dtype != torch.float32 or batch.device != images.device:
            raise RuntimeError(f"{method} returned {batch.dtype} {tuple(batch.shape)} on {batch.device}, unlike the images it was given")
        if not (batch.min() >= 0 and batch.max() <= 1):
            raise RuntimeError(f"{method} returned values that are not finite or not in [0, 1]")
        if epsilon is not None and (batch - images).abs().max() > epsilon + _LINF_TOLERANCE:
            raise RuntimeError(f"{method} left the l-inf ball of radius {epsilon}: {(batch - images).abs().max().item()}")
    return result


def norms(images: Tensor, adversarial: Tensor) -> dict[str, np.ndarray]:
    """Sizes of the perturbations, each [B], computed in float64 on the CPU.

    ``l0`` int32, values changed; ``mean_l1`` mean absolute change of a value; ``l2`` Euclidean, summed
    over the values; ``linf`` largest absolute change. Raises ValueError where the shapes differ.
    """
    if images.shape != adversarial.shape:
        raise ValueError(f"images and adversarial images differ in shape: {tuple(images.shape)} and {tuple(adversarial.shape)}")
    change = (adversarial.detach().cpu().double() - images.detach().cpu().double()).abs().flatten(1).numpy()
    return {
        "l0": np.count_nonzero(change, axis=1).astype(np.int32),
        "mean_l1": change.mean(axis=1),
        "l2": np.sqrt(np.square(change).sum(axis=1)),
        "linf": change.max(axis=1),
    }


def _check_inputs(network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor) -> None:
    """ValueError for anything that would make an attack mean something else than it says."""
    if images.dtype != torch.float32 or images.ndim != 4 or not images.numel():
        raise ValueError(f"images must be float32 [B, C, H, W] and not empty, got {images.dtype} {tuple(images.shape)}")
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images must lie in [0, 1], got {images.min().item()} to {images.max().item()}")
    for name, value in (("labels", labels), ("ids", ids)):
        if value.dtype != torch.int64 or value.shape != images.shape[:1] or value.device != images.device:
            came = f"{value.dtype} {tuple(value.shape)} on {value.device}"
            raise ValueError(f"{name} must be int64 [{len(images)}] on {images.device}, got {came}")
    if any(module.training for module in network.modules()):
        raise ValueError("the network must be in eval mode: dropout and batch statistics would tie images together")
    with torch.no_grad():
        logits = network(images[:1])
    if logits.ndim != 2 or not logits.isfinite().all():
        raise ValueError(f"the network must return finite logits [B, classes], got {tuple(logits.shape)}: {logits.flatten()[:4].tolist()}")
    if (logits >= 0).all() and abs(logits.sum().item() - 1) < 1e-5:
        raise ValueError("the network must return logits, and these look like probabilities")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels must be 0 to {logits.shape[1] - 1}, got {labels.min().item()} to {labels.max().item()}")


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """No gradients of weights meanwhile (13 to 65 % of an attack's time); as before afterwards."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _gradient(value: Tensor, x: Tensor, keep_graph: bool = False) -> Tensor:
    """d value / d x of a scalar, without touching any ``.grad``."""
    return torch.autograd.grad(value, x, retain_graph=keep_graph)[0]


def _lead(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit minus the largest other one, [B]: negative where the image has left its label."""
    own = labels[:, None]
    return (logits.gather(1, own) - logits.scatter(1, own, -torch.inf).amax(1, keepdim=True))[:, 0]


def _classes(network: nn.Module, images: Tensor) -> int:
    with torch.no_grad():
        return network(images[:1]).shape[1]


def _shifted(values: Tensor) -> Tensor:
    """Each column moved one to the right, -inf in the first: what was known before."""
    return functional.pad(values[:, :-1], (1, 0), value=-torch.inf)


def _saturation(theta: float) -> float:
    """The value at which theta can move a pixel no further."""
    return 1.0 if theta > 0 else 0.0
