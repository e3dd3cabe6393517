"""Validation images: held out of the training images, stratified, drawn by the data set's seed."""

import numpy as np
import pytest
from tiny_sources import same, spec

from harness.data.datasets import load
from harness.errors import HarnessError


def test_train_is_what_remains() -> None:
    whole = load(spec("digits", train_limit=200, seed=5), None)
    held = load(spec("digits", train_limit=200, validation_limit=50, seed=5), None)
    assert held.validation is not None and whole.validation is None
    assert len(held.validation.ids) == 50
    together = np.sort(np.concatenate([held.train.ids, held.validation.ids]))
    assert np.array_equal(together, whole.train.ids)
    assert same(held.test, whole.test)
    for part in (held.train, held.validation):
        where = np.searchsorted(whole.train.ids, part.ids)
        assert np.array_equal(whole.train.ids[where], part.ids) and (np.diff(part.ids) > 0).all()
        assert np.array_equal(part.pixels, whole.train.pixels[where])
        assert np.array_equal(part.labels, whole.train.labels[where])


def test_each_class_has_its_share() -> None:
    whole = load(spec("digits"), None).train
    held = load(spec("digits", validation_limit=180), None).validation
    assert held is not None
    exact = np.bincount(whole.labels) * 180 / len(whole.labels)
    assert np.abs(np.bincount(held.labels, minlength=10) - exact).max() < 1


def test_the_draw_follows_the_seed() -> None:
    one, again, other = (
        load(spec("digits", validation_limit=100, seed=seed), None).validation for seed in (1, 1, 2)
    )
    assert one is not None and again is not None and other is not None
    assert same(one, again) and not np.array_equal(one.ids, other.ids)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"validation_limit": 5}, "validation_limit 5 leaves no validation image of "),
        (
            {"train_limit": 20, "validation_limit": 15},
            "validation_limit 15 leaves no training image of ",
        ),
        (
            {"train_limit": 20, "validation_limit": 20},
            "validation_limit to be below the 20 training images that it is held out of, got 20",
        ),
    ],
)
def test_a_split_that_empties_a_class(settings: dict[str, int], words: str) -> None:
    with pytest.raises(HarnessError, match=words):
        load(spec("digits", **settings), None)
