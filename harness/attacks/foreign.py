"""An attack from outside the package: a function with the harness's mark."""

import inspect
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from harness.attacks.attack import Attack, Norm
from harness.attacks.guard import in_batches
from harness.extensions import Extension, Kind, Used
from harness.extensions.marks import BATCH_SIZE, AttackMark


class ForeignAttack(Used, Attack):
    """A function ``f(network, images, labels, ids, seed, *, settings) -> Tensor``, see ``extensions.attack``.

    One with a setting ``epsilon`` is called for each of its values.
    """

    kind: ClassVar[Kind] = "attack"
    is_limited: ClassVar[bool] = True

    method: Literal["foreign"] = "foreign"

    @property
    def norm(self) -> Norm:
        mark = self.extension().mark
        assert isinstance(mark, AttackMark)
        return mark.norm

    @property
    def epsilons(self) -> tuple[float | None, ...]:
        """See ``Attack``: of the function's setting ``epsilon``, a number or several."""
        if "epsilon" not in self.settings:
            return (None,)
        epsilon = self.settings["epsilon"]
        return tuple(epsilon) if isinstance(epsilon, list) else (epsilon,)

    def with_epsilons(self, epsilons: tuple[float | None, ...]) -> Self:
        if self.epsilons == (None,):
            return self
        return self.model_copy(update={"settings": {**self.settings, "epsilon": list(epsilons)}})

    def identity(self) -> dict[str, Any]:
        """``use`` and all of the function's settings but epsilon."""
        identity = self.model_dump(mode="json")
        identity["settings"].pop("epsilon", None)
        return identity

    def cost(self, classes: int, values: int) -> float:
        """What the mark says, summed over the epsilons."""
        extension = self.extension()
        return sum(extension.number("cost", keywords) for keywords in extension.keywords(self.settings))

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """The function, called for at most ``batch_size`` images at a time, in order, and each epsilon.

        One that takes ``batch_size`` itself gets all images at once. It may draw from global generators:
        they are seeded for every call. It gets copies, which it may change.
        """
        extension = self.extension()
        takes_all = BATCH_SIZE in inspect.signature(extension.function).parameters
        size, last = (len(images), (batch_size,)) if takes_all else (batch_size, ())
        results = []
        for epsilon, keywords in zip(self.epsilons, extension.keywords(self.settings), strict=True):

            def make(x: Tensor, label: Tensor, id: Tensor, keywords: Any = keywords) -> Tensor:
                made = extension.call(network, x, label, id, seed, *last, **keywords)
                return _checked(extension, made, x)

            results.append(in_batches(make, images, labels, ids, size, seed, epsilon))
        return results


def _checked(extension: Extension, made: Any, images: Tensor) -> Tensor:
    """What came back, without its graph; RuntimeError where it is not like the images that went in."""
    if not isinstance(made, Tensor):
        expected = f"a float32 tensor {tuple(images.shape)}"
        raise RuntimeError(f"{extension.algorithm} should return {expected}, got {type(made).__name__}")
    if (made.shape, made.dtype, made.device) != (images.shape, images.dtype, images.device):
        expected, came = (f"{t.dtype} {tuple(t.shape)} on {t.device}" for t in (images, made))
        raise RuntimeError(f"{extension.algorithm} should return {expected}, got {came}")
    return made.detach()
