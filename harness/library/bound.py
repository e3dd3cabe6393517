"""``harness.bound``: how far each image is from the nearest one of another class (paper III-A)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from harness.data.datasets import Dataset, Images
from harness.errors import HarnessError, did_you_mean
from harness.neighbours import learning
from harness.neighbours.classes import tiles
from harness.neighbours.nearest import Nearest
from harness.neighbours.searcher import Searcher
from harness.neighbours.shards import shards_of

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["other_class", "any_class"]

_ROUNDING = 1e-4  # of 255 x in float32, far below a grey level
_ROUNDED_IMAGES = 4096  # images turned into grey levels at once


@dataclass(frozen=True, eq=False)
class Bound:
    """The bound of N images.

    ``distance`` float64 [N]: mean absolute difference of the values, in [0, 1], to the nearest training image
    (d_i, eq. 2). ``neighbour`` int64 [N]: that image's position, the first of those equally near.
    """

    distance: np.ndarray
    neighbour: np.ndarray

    def sigma(self, k: float) -> np.ndarray:
        """distance / (2 k), float64 [N] in [0, 1] units (eq. 3); HarnessError unless k is above 0."""
        if not k > 0:
            raise HarnessError(f"k must be above 0, got {k}")
        return self.distance / (2 * k)


def bound(
    images: "np.ndarray | Tensor",
    labels: "np.ndarray | Tensor",
    train_images: "np.ndarray | Tensor | None" = None,
    train_labels: "np.ndarray | Tensor | None" = None,
    *,
    neighbours: Kind = "other_class",
) -> Bound:
    """The exact l1 distance of each image to its nearest neighbour among the training images.

    Args:
        images: uint8 [N, C, H, W] or [N, H, W], 0..255. float32 and float64 are taken where every value is
            k/255, up to rounding: the search is exact in grey levels.
        labels: integers [N].
        train_images, train_labels: those to search, of the same size. Without them the images themselves:
            an image is then not its own neighbour.
        neighbours: 'other_class' as the paper defines it; 'any_class', which its Table II fits.

    Computed on the GPU where there is one and it is worth it. Time grows with N times the training images:
    all of MNIST takes less than a minute of one core.

    Raises HarnessError for images or labels of another type, shape or range, none at all, or where an image
    has no neighbour: all training images are of its class.
    """
    if neighbours not in get_args(Kind):
        known = get_args(Kind)
        raise HarnessError(f"unknown kind of neighbours '{neighbours}'{did_you_mean(neighbours, known)}")
    queries = _images("images", images, "labels", labels)
    if (train_images is None) != (train_labels is None):
        raise HarnessError("train_images and train_labels belong together: got one of them")
    is_same = train_images is None
    database = queries if is_same else _images("train_images", train_images, "train_labels", train_labels)
    _check_all_have_one(queries, database, is_same, neighbours)
    nearest = _search(queries, database, is_same, neighbours)
    values = int(np.prod(queries.pixels.shape[1:]))
    return Bound(nearest.distance / (255 * values), nearest.id)


def _search(queries: Images, database: Images, is_same: bool, neighbours: Kind) -> Nearest:
    """Each query's nearest among the database, whose ids are positions."""
    differences = float(len(queries.ids)) * database.pixels.size
    is_large = differences >= learning.WORTHWHILE  # below it neither an index nor torch's import pays
    gpu = is_large and _has_gpu()
    index = learning.index(database, gpu=gpu) if is_large else None
    searcher = Searcher(Dataset((), database, queries), index, gpu)
    nearest = Nearest.none(len(queries.ids))
    for shard in shards_of(queries, database):
        found = searcher.search(("train" if is_same else "test", shard))
        nearest.improve(shard.queries, getattr(found, neighbours))
    return nearest


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


# --- what came in -----------------------------------------------------------------------------------


def _images(name: str, images: Any, labels_name: str, labels: Any) -> Images:
    """Images with their positions as ids; HarnessError for what cannot be searched."""
    pixels, classes = _pixels(name, images), as_array(labels_name, labels)
    if classes.dtype.kind not in "iu" or classes.shape != pixels.shape[:1]:
        came = f"{classes.dtype} {classes.shape}"
        raise HarnessError(f"{labels_name} must be integers [{len(pixels)}], one an image, got {came}")
    return Images(pixels, classes.astype(np.int64), np.arange(len(pixels), dtype=np.int64))


def as_array(name: str, value: Any) -> np.ndarray:
    """A numpy array, or a tensor's values; HarnessError for anything else."""
    if hasattr(value, "detach"):  # a tensor: torch itself need not be imported
        try:
            value = value.detach().cpu().numpy()
        except TypeError:
            raise HarnessError(f"{name} must have a dtype that numpy knows, got {value.dtype}") from None
    if not isinstance(value, np.ndarray):
        raise HarnessError(f"{name} must be a numpy array or a tensor, got {type(value).__name__}")
    return value


def _pixels(name: str, images: Any) -> np.ndarray:
    """uint8 [N, C, H, W]."""
    array = as_array(name, images)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or not array.size:
        came = f"{array.dtype} {array.shape}"
        raise HarnessError(f"{name} must be [N, C, H, W], or [N, H, W] for grey, and not empty, got {came}")
    if array.dtype in (np.float32, np.float64):
        array = _grey_levels(name, array)
    if array.dtype != np.uint8:
        raise HarnessError(f"{name} must be uint8, or float32 or float64 in [0, 1], got {array.dtype}")
    return np.ascontiguousarray(array)


def _grey_levels(name: str, array: np.ndarray) -> np.ndarray:
    """uint8 k of floats k/255; HarnessError for the first value that is none."""
    levels = np.empty(array.shape, np.uint8)
    for tile in tiles(slice(0, len(array)), _ROUNDED_IMAGES):
        scaled = 255 * array[tile]
        whole = np.rint(scaled)
        is_level = (np.abs(scaled - whole) <= _ROUNDING) & (whole >= 0) & (whole <= 255)
        if not is_level.all():
            came = array[tile][~is_level][0]
            raise HarnessError(
                f"{name} must be uint8 or floats k/255, k from 0 to 255, since distances are exact in grey "
                f"levels; got {came}, which is {255 * came:.6g}/255: np.rint(255 * x).astype(np.uint8) rounds"
            )
        levels[tile] = whole
    return levels


def _check_all_have_one(queries: Images, database: Images, is_same: bool, neighbours: Kind) -> None:
    """HarnessError for sizes that differ, or an image without a neighbour."""
    if queries.pixels.shape[1:] != database.pixels.shape[1:]:
        shapes = f"{queries.pixels.shape} and {database.pixels.shape}"
        raise HarnessError(f"images and train_images must be of one size, got {shapes}")
    if neighbours == "any_class":
        if is_same and len(queries.ids) == 1:
            raise HarnessError("one image alone has no neighbour: give more, or train_images")
        return
    (label, *others) = np.unique(database.labels).tolist()
    alone = np.count_nonzero(queries.labels == label)
    if not others and alone:
        which = "images" if is_same else "training images"
        raise HarnessError(
            f"{alone} of {len(queries.ids)} images have no neighbour of another class: all {which} are of "
            f"class {label}"
        )
