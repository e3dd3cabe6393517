"""Which images of a source a study keeps: the settings, and the draws of classes and of stratified images.

A draw follows the data set's seed and its own name, so none depends on another.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from harness.data import SOURCES
from harness.data.source import Splits, first_few, stratified
from harness.errors import HarnessError, did_you_mean
from harness.settings import Count, Name, Settings


def _one_of(known: Collection[str]) -> AfterValidator:
    """A field's value must be one of these names."""

    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"'{name}' is not possible{did_you_mean(name, known)}")
        return name

    return AfterValidator(check)


_PAPER_DATASETS = [name for name, source in SOURCES.items() if source.paper_dataset]


class DatasetSpec(Settings):
    """Which images. Subsets are stratified and drawn by the data set's own seed."""

    source: Annotated[str, _one_of(SOURCES)]
    name: Name | None = Field(None, description="name in the tables; the source's name unless given")
    folder: str | None = Field(
        None, description="for 'parquet': folder below the data folder, or an absolute path"
    )
    title: str | None = Field(None, description="how tables call it, e.g. 'CIFAR-10 (JPEG copies)'")
    paper: Annotated[str, _one_of(_PAPER_DATASETS)] | None = Field(
        None,
        description="data set of the paper whose numbers stand beside ours; by name where it is one of them",
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="draws the classes and the subset; shared by all seeds of a study"
    )
    classes: Annotated[int, Field(ge=2)] | None = Field(
        None, description="keep this many classes, drawn by seed"
    )
    train_limit: Count | None = Field(None, description="training images kept, stratified")
    test_limit: Count | None = Field(None, description="test images kept, stratified")
    white_box_limit: Count | None = Field(
        None, description="of the test images kept, so many are attacked in the white box, stratified"
    )
    validation_limit: Count | None = Field(
        None,
        description="of the training images kept, so many are held out, stratified: what is chosen among a "
        "grid's networks is chosen on them",
    )

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if SOURCES[self.source].in_folder != (self.folder is not None):
            in_folder = " or ".join(f"'{name}'" for name, source in SOURCES.items() if source.in_folder)
            raise ValueError(f"'folder' belongs to source {in_folder}, and to it alone")
        if not self.label:
            raise ValueError(f"folder '{self.folder}' names nothing: give the data set a 'name'")
        if self.label == ".." or not self.label.isprintable():
            raise ValueError(f"'{self.label}' is no name for a data set: give it one with 'name'")
        return self

    @property
    def label(self) -> str:
        """The data set's name in paths and tables."""
        return self.name or (Path(self.folder).name.lower() if self.folder else self.source)

    @property
    def paper_dataset(self) -> str | None:
        """The paper's data set to compare with, or None."""
        return self.paper or (self.source if SOURCES[self.source].paper_dataset else None)


# --- draws ------------------------------------------------------------------------------------------


def kept_classes(spec: DatasetSpec, splits: Splits) -> np.ndarray:
    """The source's labels of the classes that ``spec`` keeps, ascending.

    Raises HarnessError when the splits' labels do not fit together, or there are fewer classes.
    """
    present = _present_classes(spec, splits)
    if spec.classes is None:
        return present
    if spec.classes > len(present):
        raise HarnessError(
            f"{spec.label}: expected at most the {len(present)} classes present, got classes: {spec.classes}"
        )
    drawn = _generator(spec.seed, "classes").permutation(present)[: spec.classes]
    return np.sort(drawn)


def kept_images(spec: DatasetSpec, split: str, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Positions in ``labels``, int64 [n], ascending, of the images of ``classes`` that ``spec`` keeps.

    ``split`` is 'train' or 'test', and has its own limit. Raises HarnessError when there are none, or fewer
    than the limit.
    """
    limit = spec.train_limit if split == "train" else spec.test_limit
    keep = np.flatnonzero(np.isin(labels, classes))
    if not len(keep):
        raise HarnessError(
            f"{spec.label}: expected {split} images of the classes {first_few(classes.tolist())}, got none"
        )
    if limit is None or limit == len(keep):
        return keep
    if limit > len(keep):
        raise HarnessError(
            f"{spec.label}: expected {split}_limit to be at most the {len(keep)} images that there are,"
            f" got {limit}"
        )
    return keep[stratified(labels[keep], limit, _generator(spec.seed, split))]


def held_out(spec: DatasetSpec, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Which of the training images that are kept, of ``labels`` 0, 1, ..., are for validation: bool [n].

    The draw follows the limit of the training images and is one of its own. Raises HarnessError where it
    leaves a class, one of ``names``, without an image in either part.
    """
    held = np.zeros(len(labels), dtype=bool)
    limit = spec.validation_limit
    if limit is None:
        return held
    if limit >= len(labels):
        raise HarnessError(
            f"{spec.label}: expected validation_limit to be below the {len(labels)} training images that it "
            f"is held out of, got {limit}"
        )
    held[stratified(labels, limit, _generator(spec.seed, "validation"))] = True
    for what, part in (("validation", labels[held]), ("training", labels[~held])):
        empty = [name for label, name in enumerate(names) if not (part == label).any()]
        if empty:
            raise HarnessError(
                f"{spec.label}: validation_limit {limit} leaves no {what} image of {first_few(empty)}"
            )
    return held


def in_white_box(spec: DatasetSpec, labels: np.ndarray) -> np.ndarray:
    """Positions, int64 [n], ascending, of the test images, of ``labels``, that the white box takes.

    Raises HarnessError when there are fewer than the limit.
    """
    limit = len(labels) if spec.white_box_limit is None else spec.white_box_limit
    if limit > len(labels):
        raise HarnessError(
            f"{spec.label}: expected white_box_limit to be at most the {len(labels)} test images that are "
            f"kept, got {limit}"
        )
    return stratified(labels, limit, _generator(spec.seed, "white_box"))


def _present_classes(spec: DatasetSpec, splits: Splits) -> np.ndarray:
    """The labels in the training split, ascending, once both splits' labels are seen to fit."""
    names = splits.class_names
    present = np.unique(splits.train.labels)
    unnamed = [label for label in present.tolist() if label not in names]
    if unnamed:
        raise HarnessError(
            f"{spec.label}: expected labels of the {len(names)} named classes,"
            f" got {first_few(unnamed)} in train"
        )
    untrained = np.setdiff1d(splits.test.labels, present).tolist()
    if untrained:
        labels = [f"{label} ({names.get(label, 'unnamed')})" for label in untrained]
        raise HarnessError(f"{spec.label}: test has labels that no training image has: {first_few(labels)}")
    if len(present) < 2:
        raise HarnessError(f"{spec.label}: expected two classes or more in train, got {len(present)}")
    return present


def _generator(seed: int, name: str) -> np.random.Generator:
    from harness.seeds import generator  # imports torch

    return generator(seed, "subset", name)
