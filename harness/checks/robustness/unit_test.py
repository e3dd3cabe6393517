"""The attack's unit test: a copy of the network that must be broken.

Zimmermann et al. 2022, "Increasing confidence in adversarial robustness evaluations". Every image gets a
binary head of its own on the network's logits z, which by construction has an adversarial example: of 16
random corners of the ball, that whose logits moved furthest. With w the direction in which they moved and b
midway between the corner's w z and the largest of the image and the other corners, the head says (0, w z -
b). The attack that gave the white box's number must find a point of the second class, too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from harness import seeds
from harness.attacks.attack import perturb
from harness.attacks.batch import frozen, logits
from harness.checks.robustness.verdict import Case, Verdict, share, unjudged

_CORNERS = 16
_MOST = 64  # images
_MISSED = 0.05  # of the heads; honest networks miss none


@dataclass(frozen=True)
class Heads:
    """A head an image: w float32 [B, classes] of length 1, b float32 [B]; ``known`` bool [B]: it has one."""

    direction: Tensor
    threshold: Tensor
    known: Tensor

    def take(self, which: slice | Tensor) -> "Heads":
        return Heads(self.direction[which], self.threshold[which], self.known[which])


class Altered(nn.Module):
    """The network with a head for each of a batch's images, which come in the heads' order, the first B."""

    def __init__(self, network: nn.Module, heads: Heads) -> None:
        super().__init__()
        self.network, self.heads = network, heads
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        heads = self.heads.take(slice(len(images)))
        second = (self.network(images) * heads.direction).sum(1) - heads.threshold
        return torch.stack([torch.zeros_like(second), second], dim=1)


def unit_test(case: Case) -> Verdict:
    """Of heads with a known adversarial example, those that the white box's attack does not find."""
    if case.draws:
        return unjudged("unit test", "randomised: what a head has is not known for certain", _MISSED)
    at = case.right[:: max(1, len(case.right) // _MOST)][:_MOST]
    if not len(at):
        return unjudged("unit test", "no image is classified correctly", _MISSED)
    with frozen(case.network):
        heads = heads_of(case, at)
    at, heads = at[heads.known], heads.take(heads.known)
    broken = torch.cat([_broken(case, part, heads.take(rows)) for part, rows in _batches(case, at)])
    sentence = "{} of heads with a known adversarial example are not broken"
    return share("unit test", case, at, ~broken, sentence, threshold=_MISSED)


def heads_of(case: Case, at: Tensor) -> Heads:
    """The heads of the images at positions ``at``; unknown where no corner moves the logits."""
    images, ids = case.images[at], case.ids[at]
    clean = logits(case.network, images, case.batch_size)
    seed = seeds.derive(case.seed, "unit test")
    moved = []
    for draw in range(_CORNERS):
        corner = seeds.uniform(seed, ids, torch.full_like(ids, draw), images[0].numel()).view_as(images)
        there = (images + case.epsilon * (2 * (corner > 0.5).float() - 1)).clamp(0, 1)
        moved.append(logits(case.network, there, case.batch_size) - clean)
    moves = torch.stack([*moved, torch.zeros_like(clean)], dim=1)  # [B, corners + 1, classes]
    best = moves.norm(dim=2).argmax(1)
    direction = normalize(moves[torch.arange(len(at), device=at.device), best], dim=1)
    along = (moves * direction[:, None]).sum(2).sort(dim=1).values
    # By Cauchy and Schwarz no other corner reaches as far along w as the one that moved furthest.
    between = (along[:, -1] + along[:, -2]) / 2
    known = along[:, -1] - along[:, -2] > 1e-4 * along[:, -1].clamp_min(1e-6)
    return Heads(direction, (clean * direction).sum(1) + between, known)


def _broken(case: Case, at: Tensor, heads: Heads) -> Tensor:
    """bool [B], for images that are a batch: Foolbox's engine leaves their order as it is."""
    altered = Altered(case.network, heads)
    attack = case.pgd().model_copy(update={"engine": "foolbox"})
    start = torch.zeros_like(at)
    seed = seeds.derive(case.seed, "unit test attack")
    (made,) = perturb(altered, case.images[at], start, case.ids[at], attack, seed, len(at))
    return logits(altered, made, len(at)).argmax(1) == 1


def _batches(case: Case, at: Tensor) -> list[tuple[Tensor, Tensor]]:
    rows = torch.arange(len(at), device=at.device).split(case.batch_size)
    return [(at[part], part) for part in rows]
