"""Planted defenses: what is broken must be found, what is honest must not, whatever network is inside.

``BROKEN`` and ``HONEST``: name -> a function from a network to the one around it, [0, 1] images to logits.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Around(nn.Module):
    """A network in eval mode, with something done to its images before or to its logits after."""

    def __init__(
        self,
        network: nn.Module,
        before: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x if self.before is None else self.before(x))
        return logits if self.after is None else self.after(logits)


class _Unrelated(torch.autograd.Function):
    """The values as they are, with a gradient of something else: the same for all images."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        ramp = torch.linspace(-1, 1, gradient[0].numel(), device=gradient.device)
        return ramp.view(gradient[0].shape).expand_as(gradient)


def scaled(factor: float) -> Callable[[nn.Module], nn.Module]:
    return lambda network: Around(network, after=lambda z: factor * z)


def rounded(levels: int) -> Callable[[nn.Module], nn.Module]:
    return lambda network: Around(network, before=lambda x: (x * (levels - 1)).round() / (levels - 1))


def noisy(sd: float) -> Callable[[nn.Module], nn.Module]:
    return lambda network: Around(network, before=lambda x: x + sd * torch.randn_like(x))


def _resized(x: Tensor) -> Tensor:
    """Enlarged by a random share and padded at a random place, as Xie et al. 2018 do."""
    size = x.shape[-1]
    larger = size + int(torch.randint(1, max(2, size // 4) + 1, ()))
    x = F.interpolate(x, (larger, larger), mode="bilinear")
    top, left = (int(torch.randint(0, larger - size + 1, ())) for _ in range(2))
    return x[..., top : top + size, left : left + size]


def _winners(x: Tensor, share: float = 0.3) -> Tensor:
    """k winners take all, of an image's values: Xiao et al. 2020."""
    flat = x.flatten(1)
    least = flat.topk(max(1, int(share * flat.shape[1])), dim=1).values[:, -1:]
    return torch.where(flat >= least, flat, 0.0).view_as(x)


def _blocks(x: Tensor) -> Tensor:
    """What JPEG does to blocks of 4 x 4: a cosine transform, quantised."""
    n = 4
    k, i = torch.arange(n)[:, None], torch.arange(n)[None, :]
    basis = torch.cos(torch.pi * (i + 0.5) * k / n) * (2 / n) ** 0.5
    basis[0] /= 2**0.5
    basis = basis.to(x)
    tiles = x.unfold(2, n, n).unfold(3, n, n)
    quantised = (basis @ tiles @ basis.T * 16).round() / 16
    back = basis.T @ quantised @ basis
    return back.permute(0, 1, 2, 4, 3, 5).reshape(x.shape)


def _normalised_by_batch(z: Tensor) -> Tensor:
    return (z - z.mean(0)) / (z.std(0, unbiased=False) + 1e-3)


NAMED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "x1000": scaled(1000.0),
    "round 256": rounded(256),
    "round 4": rounded(4),
    "noise .1": noisy(0.1),
    "softmax x10": lambda network: Around(network, after=lambda z: 10 * z.softmax(1)),
    "shatter": lambda network: Around(network, before=lambda x: x + 0.004 * (5000 * x).sin()),
    "x30": scaled(30.0),
}
OTHERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "noise .3": noisy(0.3),
    "softmax": lambda network: Around(network, after=lambda z: z.softmax(1)),
    "temperature .01": scaled(100.0),
    "blocks": lambda network: Around(network, before=_blocks),
    "resized": lambda network: Around(network, before=_resized),
    "thermometer": lambda network: Around(
        network,
        before=lambda x: sum((x > t / 16).float() for t in range(16)) / 16,  # type: ignore[return-value]
    ),
    "winners": lambda network: Around(network, before=_winners),
    "detached": lambda network: Around(network, after=lambda z: z.detach()),
    "tanh x 10": lambda network: Around(network, after=lambda z: 10 * z.tanh()),
    "sigmoid": lambda network: Around(network, after=lambda z: z.sigmoid()),
    "clamped": lambda network: Around(network, after=lambda z: z.clamp(-1, 1)),
    "unrelated gradient": lambda network: Around(network, before=_Unrelated.apply),
    "by batch": lambda network: Around(network, after=_normalised_by_batch),
    # At 0 and 1, where half of an image's values lie, clamp passes no gradient on.
    "clamped input": lambda network: Around(network, before=lambda x: x.clamp(0, 1)),
    "+ 1e7": lambda network: Around(network, after=lambda z: z + 1e7),
}
BROKEN = NAMED | OTHERS
HONEST: dict[str, Callable[[nn.Module], nn.Module]] = {
    "log-softmax": lambda network: Around(network, after=lambda z: z.log_softmax(1)),
    "centred": lambda network: Around(network, after=lambda z: z - z.mean(1, keepdim=True)),
    "temperature 2": scaled(0.5),
    "+ 100": lambda network: Around(network, after=lambda z: z + 100),
}


class Mean(nn.Module):
    """An ensemble: the mean probabilities of its members, as log-probabilities."""

    def __init__(self, *members: nn.Module) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x).softmax(1) for member in self.members]).mean(0).log()
