"""Images, labels and ids: where a data set's files are, how they are read, and which images a study keeps.

A data set is a file here, which says all that is known of it in a `Source`, and its line in ``SOURCES``.
`datasets` draws a study's subset from any of them. Importing this package imports neither torch nor
torchvision nor any reader of files; the functions that need one do.
"""

from harness.data.cifar10 import CIFAR10
from harness.data.digits import DIGITS
from harness.data.mnist import FASHION_MNIST, MNIST
from harness.data.parquet import PARQUET
from harness.data.source import Source
from harness.data.tinyimagenet import TINYIMAGENET

SOURCES: dict[str, Source] = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
    "cifar10": CIFAR10,
    "tinyimagenet": TINYIMAGENET,
    "parquet": PARQUET,
}
