"""Carlini & Wagner's attack."""

import math

import torch
from torch import Tensor, nn

from harness.attacks.gradients import input_gradient, margin
from harness.spec import CwL2

_TANH_MARGIN = 0.999999  # Carlini's code: pixels at 0 and 1 stay at a finite place of tanh space


def cw_l2(network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, settings: CwL2, seed: int) -> list[Tensor]:
    """Carlini & Wagner 2017, l2 (section VI-A), untargeted, with a binary search over c for each image.

    minimise |x - image|^2 + c * max(logit[label] - max of the others + confidence, 0), x = (tanh(w) + 1) / 2.
    Returns the nearest image found that leaves its label by more than ``confidence``; the clean image
    where none was found, or where it is there already.
    """
    best = images.clone()
    with torch.no_grad():
        attacked = (margin(network(images), labels) + settings.confidence >= 0).nonzero()[:, 0]
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
            lead = margin(network(x), label) + settings.confidence
            loss = square + constant * lead.clamp(min=0)
            gradient = input_gradient(loss.sum(), w)
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
