"""What the paper compares its defense with (V-D): training on the images that one attack made."""

from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from harness.defenses.defense import Defense
from harness.networks.objective import Inputs, InTraining, Needs, Objective, TrainingAttack, cross_entropy
from harness.settings import GRID, epsilon_text


class AdversarialImages(Defense):
    """Clean images, and those that one attack made of them on the base network (Table VII)."""

    title: ClassVar[str] = "adversarial images"

    method: Literal["adversarial_images"] = "adversarial_images"
    sources: Annotated[TrainingAttack, *GRID]

    @property
    def samples_per_image(self) -> int:
        return 2

    def needs(self) -> Needs:
        return Needs(images_of=self.sources)

    def columns(self) -> dict[str, Any]:
        return {"training_attack": self.sources.attack, "training_epsilon": self.sources.epsilon}

    def label(self) -> str:
        """'fgsm 0.1', 'deepfool'."""
        attack, epsilon = self.sources.attack, self.sources.epsilon
        return attack if epsilon is None else f"{attack} {epsilon_text(epsilon)}"

    def draws(self, neighbours: str) -> tuple[str, ...]:
        """The method's first name, so that draws stay what they were."""
        return ("adversarial", repr(self.sources.attack), repr(self.sources.epsilon))

    def objective(self, inputs: Inputs, seed: int) -> Objective:
        """Mean cross-entropy of every image, once clean and once adversarial."""
        assert inputs.adversarial is not None and len(inputs.adversarial) == len(inputs.pixels), (
            "one adversarial image for each clean one"
        )
        images, made = len(inputs.pixels), inputs.adversarial

        def loss(network: InTraining, indices: Tensor, epoch: int) -> Tensor:
            image = indices % images
            is_clean = (indices < images).view(-1, 1, 1, 1)
            seen = torch.where(is_clean, inputs.clean(image), made[image])
            return cross_entropy(network(seen), inputs.labels[image])

        return Objective(2 * images, loss, is_steady=True)
