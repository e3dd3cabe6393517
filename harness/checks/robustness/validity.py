"""Whether adversarial images are what they are said to be: of these images, and within their ball."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.checks.robustness.verdict import EVIDENCE, Judgement, Verdict
from harness.data.datasets import Images
from harness.settings import Norm, largest_within


@dataclass(frozen=True)
class Made:
    """The images that one attack made for one radius, as they were measured and, if kept, themselves.

    ``clean``: what they were made of. ``rows``: image_id, label, l0, l1, l2, linf, each [N]. ``norm`` and
    ``epsilon`` are the attack's; without a radius None. ``images`` float32 [N, C, H, W].
    """

    clean: Images
    rows: Mapping[str, np.ndarray]
    norm: Norm
    epsilon: float | None
    images: np.ndarray | None = None


def validity(made: list[Made]) -> Verdict:
    """How many adversarial images are invalid, in all attacks on a network; a failure from the first on.

    A change within the radius (but for rounding), all norms finite, values in [0, 1] where the images were
    kept, ids and labels those of the ``clean`` images in order.
    """
    counted, invalid = 0, []
    for each in made:
        bad = _invalid(each)
        counted += len(bad)
        invalid += each.rows["image_id"][bad].tolist()
    sentence = f"{len(invalid)} of {counted} adversarial images are invalid"
    verdict: Judgement = "fail" if invalid else "pass"
    return Verdict(
        "validity", float(len(invalid)), 0.0, verdict, counted, sentence, tuple(invalid[:EVIDENCE])
    )


def _invalid(made: Made) -> np.ndarray:
    """bool [N]."""
    rows = made.rows
    if not np.array_equal(rows["image_id"], made.clean.ids):
        return np.ones(len(rows["image_id"]), dtype=bool)
    bad = np.asarray(rows["label"] != made.clean.labels)
    for name in ("l0", "l1", "l2", "linf"):
        bad |= ~np.isfinite(rows[name].astype(np.float64))
    if made.epsilon is not None:
        bad |= rows[made.norm] > largest_within(made.norm, made.epsilon)
    if made.images is not None:
        flat = made.images.reshape(len(bad), -1)
        bad |= ~((flat.min(1) >= 0) & (flat.max(1) <= 1))  # a NaN is in no range
    return bad
