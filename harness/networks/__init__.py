"""The classifiers that are attacked and defended, and the one loop that trains them.

``classifier`` is the contract: an ``Architecture`` is a kind of network with its settings, a ``Classifier``
what ``build`` makes of it. To add one: a file like ``convnet``, and its line in ``NETWORKS``.
Without touching the package: a marked function, see ``harness.extensions``.
"""

from harness.networks.classifier import Architecture
from harness.networks.convnet import ConvNet
from harness.networks.foreign import ForeignNetwork
from harness.networks.timm import Timm
from harness.networks.torchvision import Torchvision
from harness.networks.vgg16 import Vgg16

# By the word that a study names it with.
NETWORKS: dict[str, type[Architecture]] = {
    "convnet": ConvNet,
    "vgg16": Vgg16,
    "foreign": ForeignNetwork,
    "torchvision": Torchvision,
    "timm": Timm,
}
