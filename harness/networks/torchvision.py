"""torchvision's classifiers by name, with the stem that small images need."""

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator
from torch import Tensor, nn

from harness.networks.classifier import Architecture
from harness.networks.imagenet import last_layer, pretrained_file, pretrained_statistics
from harness.networks.stem import Stem, Stems, known_model, set_stem, three_channels
from harness.networks.weights import Statistics

_STEMS: Stems = {
    "DenseNet": ("features.conv0", "features.pool0"),
    "EfficientNet": ("features.0.0", None),
    "MobileNetV2": ("features.0.0", None),
    "MobileNetV3": ("features.0.0", None),
    "RegNet": ("stem.0", None),
    "ResNet": ("conv1", "maxpool"),
    "ShuffleNetV2": ("conv1.0", "maxpool"),
}
_AUXILIARY = ("googlenet", "inception_v3")  # with further outputs, in training alone: left out
_AUXILIARY_LAYERS = ("network.aux1.", "network.aux2.", "network.AuxLogits.")
_DOTTED = re.compile(
    r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)"
)  # names in torchvision's files of DenseNets


class Torchvision(Architecture):
    """A model of ``torchvision.models``; grey images are repeated to three channels."""

    stores_draws: ClassVar[bool] = True
    repeats_grey: ClassVar[bool] = True

    architecture: Literal["torchvision"] = "torchvision"
    model: str = Field(description="its name there, e.g. resnet18")
    pretrained: bool = Field(
        False,
        description="start from torchvision's newest ImageNet weights, or those of the file, "
        "but for the last layer and a small stem of another shape",
    )
    stem: Stem = "auto"

    @field_validator("model")
    @classmethod
    def _is_known(cls, name: str) -> str:
        from torchvision import models

        names = models.list_models(module=models)
        # MNASNet reads its version from a state dict, which is not kept with tensors.
        return known_model(name, "torchvision", [name for name in names if not name.startswith("mnasnet")])

    @property
    def title(self) -> str:  # type: ignore[override]
        return f"torchvision {self.model}"

    def body(self, channels: int, size: tuple[int, int], classes: int) -> nn.Module:
        """See ``Architecture``. HarnessError where a small stem is asked for that is not known."""
        from torchvision.models import get_model

        model = get_model(self.model, weights=None, num_classes=classes, **self._options(size))
        stem = set_stem(model, self.stem, size, _STEMS)
        return _Body(model, (last_layer(model), *([stem] if stem else [])))

    def _options(self, size: tuple[int, int]) -> dict[str, Any]:
        if self.model in _AUXILIARY:
            # Their ImageNet weights are of images that were normalised in another way.
            return {"aux_logits": False, "init_weights": True, "transform_input": self.pretrained}
        return {"image_size": size[0]} if self.model.startswith("vit_") else {}

    def initial_file(self) -> Path | None:
        return pretrained_file(self.model, self.weights) if self.pretrained else super().initial_file()

    def read_initial(self) -> dict[str, Tensor] | None:
        tensors = super().read_initial()
        return tensors and {_DOTTED.sub(r"\1", name): value for name, value in tensors.items()}

    def drawn(self, body: nn.Module) -> tuple[str, ...]:
        assert isinstance(body, _Body)
        return (*_AUXILIARY_LAYERS, *(body.replaced if self.pretrained else ()))

    def statistics(self) -> Statistics | None:
        return super().statistics() or (pretrained_statistics(self.model) if self.pretrained else None)


class _Body(nn.Module):
    """A model of three channels; ``replaced`` is how the names begin that no ImageNet weights fill."""

    def __init__(self, network: nn.Module, replaced: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.replaced = tuple(f"network.{layer}." for layer in replaced)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(three_channels(x))
        return logits
