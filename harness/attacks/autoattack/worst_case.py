"""AutoAttack: several attacks, one after the other, and for each image the first that fools the network."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from harness.attacks.attack import Attack, Gradients, member_seed
from harness.attacks.autoattack.auto_pgd import ApgdCe, ApgdT
from harness.attacks.autoattack.fast_adaptive_boundary import FabT
from harness.attacks.autoattack.radii import Radii
from harness.attacks.autoattack.square import Square
from harness.attacks.batch import logits
from harness.settings import Count


@dataclass(frozen=True)
class _Schedule:
    """How long the members look: steps, classes aimed at, queries; 0: without that member."""

    ce_steps: int
    targeted_steps: int
    targets: int
    fab_steps: int
    queries: int


_SCHEDULES = {
    "standard": _Schedule(ce_steps=100, targeted_steps=100, targets=9, fab_steps=100, queries=5000),
    "quick": _Schedule(ce_steps=50, targeted_steps=20, targets=9, fab_steps=0, queries=200),
}


class AutoAttack(Radii, Attack):
    """The worst case of APGD-CE, targeted APGD, targeted FAB and Square: Croce and Hein 2020, section 6.

    ``standard`` is the authors' schedule. ``quick`` has fewer steps, no FAB, and Square as a guard against
    gradients that mislead.
    """

    title: ClassVar[str] = "AutoAttack"
    revision: ClassVar[int] = 0

    method: Literal["autoattack"]
    schedule: Literal["standard", "quick"] = Field("standard", description="the numbers that are not given")
    ce_steps: Count | None = Field(None, description="of APGD on the cross-entropy")
    targeted_steps: Count | None = Field(None, description="of targeted APGD, towards each class")
    targets: Count | None = Field(None, description="classes aimed at by targeted APGD and FAB")
    fab_steps: Count | None = Field(None, description="of targeted FAB, towards each class")
    queries: Count | None = Field(None, description="of Square")
    gradients: Gradients = "float32"

    def members(self) -> tuple[tuple[str, Attack], ...]:
        """See ``Attack``."""
        chosen = self._numbers()
        shared: dict[str, Any] = {"norm": self.norm, "epsilon": self.epsilon}
        by_gradient = {**shared, "gradients": self.gradients}
        targeted = {**by_gradient, "targets": chosen.targets}
        members: list[tuple[str, Attack]] = [
            ("apgd_ce", ApgdCe(method="apgd_ce", steps=chosen.ce_steps, **by_gradient)),
            ("apgd_t", ApgdT(method="apgd_t", steps=chosen.targeted_steps, **targeted)),
        ]
        if chosen.fab_steps:
            members.append(("fab_t", FabT(method="fab_t", steps=chosen.fab_steps, **targeted)))
        members.append(("square", Square(method="square", queries=chosen.queries, **shared)))
        return tuple(members)

    def _numbers(self) -> _Schedule:
        """The schedule's, but for those that were given."""
        schedule = _SCHEDULES[self.schedule]
        names = [field.name for field in fields(_Schedule)]
        return _Schedule(**{name: getattr(self, name) or getattr(schedule, name) for name in names})

    def cost(self, classes: int, values: int) -> float:
        """All members', as if none fooled before."""
        return sum(member.cost(classes, values) for _, member in self.members())

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """Each member on the images that none before it fooled; one that none fools is the last one's.

        Images that the network does not put in ``labels`` stay as they are. A member draws by its
        ``member_seed``, so that an image is the same where members are made one by one.
        """
        first = (logits(network, images, batch_size).argmax(1) == labels).nonzero()[:, 0]
        results = []
        for epsilon in self.epsilon:
            moved, left = images.clone(), first
            for name, member in self.with_epsilons((epsilon,)).members():
                if not len(left):
                    break
                survivors = images[left], labels[left], ids[left]
                (moved[left],) = member.perturb(network, *survivors, member_seed(seed, name), batch_size)
                left = left[logits(network, moved[left], batch_size).argmax(1) == labels[left]]
            results.append(moved)
        return results
