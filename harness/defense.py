"""The paper's defense (III-C, eq. 4-7): f2 keeps on x + N(0, sigma_i) what f1 says about x.

To add a defense: a function (Inputs, settings) -> Objective like this one, its settings in
``spec``, its cells in ``plan`` and its name in ``sweep.OBJECTIVES``.
"""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from harness import networks, seeds
from harness.training import Inputs, Objective


def objective(inputs: Inputs, settings: dict[str, Any]) -> Objective:
    """mean over i and j of KL(f1(x_i) || f2(x_i + delta_ij)), delta_ij ~ N(0, sigma_i) (eq. 6).

    The n perturbations of an image are drawn once and come back in every epoch (``redraw`` draws anew).
    Each follows from (seed, image id, j), so that n copies of the images are never held. Nothing is
    clipped to [0, 1]: eq. 4 does not.

    Args:
        inputs: needs ``distance`` and ``teacher``.
        settings: k (eq. 3), n, redraw, seed.
    """
    assert inputs.distance is not None and inputs.teacher is not None, (
        "the defense needs the bound and f1's outputs"
    )
    images, shape = len(inputs.pixels), inputs.pixels.shape[1:]
    n, teacher = int(settings["n"]), inputs.teacher
    sigma = inputs.distance / (2 * settings["k"])
    seed = seeds.derive(settings["seed"], "perturbation")

    def batch(indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        image, draw = indices % images, indices // images
        if settings["redraw"]:
            draw = draw + (epoch - 1) * n
        noise = seeds.normal(seed, inputs.ids[image], draw, shape.numel()).view(-1, *shape)
        return networks.as_input(inputs.pixels[image]) + sigma[image].view(-1, 1, 1, 1) * noise, teacher[
            image
        ]

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return F.kl_div(F.log_softmax(logits, dim=1), targets, reduction="none", log_target=True).sum(1)

    return Objective(images * n, batch, loss)
