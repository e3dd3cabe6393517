"""Carlini & Wagner's attack."""

import math

import torch
from torch import Tensor, nn

from harness.attacks.compaction import State, compacted
from harness.attacks.gradients import differentiable, input_gradient, logits, margin
from harness.spec import CwL2

_TANH_MARGIN = 0.999999  # Carlini's code: pixels at 0 and 1 stay at a finite place of tanh space


def cw_l2(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    settings: CwL2,
    seed: int,
    batch_size: int,
) -> list[Tensor]:
    """Carlini & Wagner 2017, l2 (section VI-A), untargeted, with a binary search over c for each image.

    minimise |x - image|^2 + c * max(logit[label] - max of the others + confidence, 0), x = (tanh(w) + 1) / 2.
    Returns the nearest image found that leaves its label by more than ``confidence``; the clean image
    where none was found, or where it is there already.

    Carlini's code ends a batch's search for a constant when the sum of its losses stalls; here each
    image's ends by its own loss, and it goes on with its next constant at once.

    With ``warm_start`` (not Carlini's) each constant goes on from the last one's w and Adam's means, so that a
    quarter of the steps suffices. As its first images owe their success to the last constant, its own success
    is judged in the second half of its steps; and while nothing succeeds constants grow threefold, not tenfold.
    """
    through = differentiable(network, settings.gradients)
    check_every, judged_from = (
        math.ceil(settings.steps / 10),
        settings.steps // 2 if settings.warm_start else 0,
    )

    def step(state: State) -> tuple[State, Tensor]:
        s, now = dict(state), state["step"]
        adam = (now + 1 + (settings.steps * s["search"] if settings.warm_start else 0)).double()
        w = s["w"].requires_grad_()
        x = (w.tanh() + 1) / 2
        square = (x - s["clean"]).square().flatten(1).sum(1)
        lead = margin(through(x), s["label"]) + settings.confidence
        loss = square + s["constant"] * lead.clamp(min=0)
        gradient = input_gradient(loss.sum(), w)
        with torch.no_grad():
            left = lead < 0
            nearer = left & (square < s["best_square"])
            if through is not network and nearer.any():
                rows = nearer.nonzero()[:, 0]
                nearer[rows] = left[rows] = (
                    margin(network(x[rows]), s["label"][rows]) + settings.confidence < 0
                )
            s["found"] = s["found"] | left & (now >= judged_from)
            s["best"] = torch.where(_wide(nearer), x, s["best"])
            s["best_square"] = torch.where(nearer, square, s["best_square"])
            # Adam (Kingma & Ba 2015, algorithm 1) with its default decay rates.
            s["mean"] = 0.9 * s["mean"] + 0.1 * gradient
            s["variance"] = 0.999 * s["variance"] + 0.001 * gradient.square()
            rate, scale = (settings.learning_rate / (1 - 0.9**adam)).float(), (1 - 0.999**adam).float()
            s["w"] = w - _wide(rate) * s["mean"] / ((s["variance"] / _wide(scale)).sqrt() + 1e-8)
            s["step"], ended = now + 1, now + 1 == settings.steps
            if not settings.warm_start:
                checked = now % check_every == 0
                ended |= checked & ~(loss <= 0.9999 * s["previous"])
                s["previous"] = torch.where(checked, loss, s["previous"])
            if ended.any():
                s = _next_constant(s, ended, settings.warm_start)
        return s, s["search"] == settings.binary_search_steps

    with torch.no_grad():
        attacked = (margin(logits(network, images, batch_size), labels) + settings.confidence >= 0).nonzero()[
            :, 0
        ]
    best = images.clone()
    if len(attacked):
        best[attacked] = compacted(
            _start(images[attacked], labels[attacked], settings.initial_constant), batch_size, step
        )["best"]
    return [best]


def _start(clean: Tensor, label: Tensor, constant: float) -> State:
    """Each image before its first step with its first constant."""
    infinite, zero, w = (
        torch.full_like(clean[:, 0, 0, 0], torch.inf),
        torch.zeros_like(label),
        _in_tanh_space(clean),
    )
    return {
        "clean": clean, "label": label, "best": clean, "best_square": infinite,
        "constant": torch.full_like(infinite, constant), "lower": torch.zeros_like(infinite), "upper": infinite, "search": zero,
        "w": w, "mean": torch.zeros_like(w), "variance": torch.zeros_like(w), "previous": infinite, "step": zero, "found": zero.bool(),
    }  # fmt: skip


def _next_constant(state: State, ended: Tensor, warm_start: bool) -> State:
    """The binary search (section VI-A): the images that ended start anew, from the clean image or where they are."""
    s = dict(state)
    s["upper"] = torch.where(ended & s["found"], s["constant"], s["upper"])
    s["lower"] = torch.where(ended & ~s["found"], s["constant"], s["lower"])
    following = torch.where(
        s["upper"].isinf(), s["constant"] * (3 if warm_start else 10), (s["lower"] + s["upper"]) / 2
    )
    s["constant"] = torch.where(ended, following, s["constant"])
    s["search"] = s["search"] + ended
    s["step"], s["found"] = s["step"].masked_fill(ended, 0), s["found"] & ~ended
    if not warm_start:
        s["w"] = torch.where(_wide(ended), _in_tanh_space(s["clean"]), s["w"])
        s["mean"], s["variance"] = (s[name].masked_fill(_wide(ended), 0) for name in ("mean", "variance"))
        s["previous"] = s["previous"].masked_fill(ended, torch.inf)
    return s


def _in_tanh_space(images: Tensor) -> Tensor:
    return ((2 * images - 1) * _TANH_MARGIN).atanh()


def _wide(values: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1]."""
    return values[:, None, None, None]
