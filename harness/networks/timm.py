"""timm's models by name (extra ``timm``), with the stem that small images need.

Made without weights of timm's, which lie on a hub: save those of a model, and name the file with ``weights``.
"""

from typing import Any, Literal

from pydantic import Field, field_validator
from torch import nn

from harness.errors import HarnessError
from harness.networks.classifier import Architecture
from harness.networks.stem import Stem, Stems, known_model, set_stem

_STEMS: Stems = {
    "DenseNet": ("features.conv0", "features.pool0"),
    "EfficientNet": ("conv_stem", None),
    "MobileNetV3": ("conv_stem", None),
    "RegNet": ("stem.conv", None),
    "ResNet": ("conv1", "maxpool"),
    "ResNetV2": ("stem.conv", "stem.pool"),
}


class Timm(Architecture):
    """A model of timm's. Grey images go into a first layer of one channel."""

    architecture: Literal["timm"] = "timm"
    model: str = Field(description="its name there, e.g. resnet18 or vit_tiny_patch16_224")
    stem: Stem = "auto"

    @field_validator("model")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            names = _library().list_models()
        except HarnessError as error:
            raise ValueError(str(error)) from error
        return known_model(name, "timm", names)

    @property
    def title(self) -> str:  # type: ignore[override]
        return f"timm {self.model}"

    def body(self, channels: int, size: tuple[int, int], classes: int) -> nn.Module:
        """See ``Architecture``. HarnessError where timm or a small stem is missing."""
        timm = _library()
        settings = timm.get_pretrained_cfg(self.model)
        # Models that are made for one size of images, as transformers are, take that size.
        sized = {"img_size": size} if settings is not None and settings.fixed_input_size else {}
        model: nn.Module = timm.create_model(
            self.model, pretrained=False, num_classes=classes, in_chans=channels, **sized
        )
        set_stem(model, self.stem, size, _STEMS)
        return model


def _library() -> Any:
    try:
        import timm
    except ImportError as error:
        raise HarnessError("architecture timm needs the package timm: pip install 'harness[timm]'") from error
    return timm
