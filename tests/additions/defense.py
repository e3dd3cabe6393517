"""Label smoothing: Szegedy et al., CVPR 2016, section 7."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from harness.defenses.defense import Defense
from harness.networks.objective import Inputs, InTraining, Objective
from harness.settings import GRID


class LabelSmoothing(Defense):
    """Cross-entropy with labels of which a share goes to all classes alike."""

    title: ClassVar[str] = "label smoothing"

    method: Literal["label_smoothing"] = "label_smoothing"
    share: Annotated[float, Field(gt=0, lt=1), *GRID] = 0.1

    def objective(self, inputs: Inputs, seed: int) -> Objective:
        def loss(network: InTraining, indices: Tensor, epoch: int) -> Tensor:
            logits = network(inputs.clean(indices))
            labels = inputs.labels[indices]
            return F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.share)

        return Objective(len(inputs.pixels), loss)
