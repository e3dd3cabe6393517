"""WHAT is measured: the row of each table, with the meaning and the unit of every column.

Columns that stand in a file's path as hive folders (``dataset=mnist/...``) are listed apart: they
must not be repeated inside the file. Images are in [0, 1] everywhere.
"""

from dataclasses import dataclass

import pyarrow as pa

from harness.results.columns import (
    ATTACK,
    CELL,
    DRAWS,
    IMAGE,
    LABEL,
    METHOD,
    NAME,
    NETWORK,
    TESTED,
    column,
    norms,
)

# Raised when a table changes, or what is computed for the same settings: results of another version are
# refused.
SCHEMA_VERSION = 5


@dataclass(frozen=True)
class TableSchema:
    """Schema of one table: columns in the path, columns in the file; whether its rows belong to studies."""

    name: str
    partition: tuple[str, ...]
    schema: pa.Schema
    of_studies: bool = True

    def is_optional(self, column: str) -> bool:
        """Whether a cell may say nothing of a column: null in all its rows."""
        return b"optional" in self.schema.field(column).metadata

    @property
    def measured(self) -> tuple[str, ...]:
        """The columns that the cell's settings determine, on whatever machine and whenever it is made."""
        return tuple(field.name for field in self.schema if b"circumstance" not in field.metadata)


SCHEMAS = {
    table.name: table
    for table in (
        TableSchema(
            "bound",
            ("dataset", "split"),
            pa.schema(
                [
                    CELL,
                    column("neighbours", pa.string(), "other_class (III-A) or any_class"),
                    IMAGE,
                    LABEL,
                    column("neighbour_id", pa.int64(), "nearest training image, the smallest id on ties"),
                    column("neighbour_label", pa.int32(), "its class"),
                    column(
                        "distance",
                        pa.float64(),
                        "mean absolute pixel difference in [0, 1] (eq. 2); sigma = distance / (2 k)",
                    ),
                ]
            ),
        ),
        TableSchema(
            "classes",
            ("dataset",),
            pa.schema(
                [
                    CELL,
                    column("label", pa.int32(), "class, as the other tables number it"),
                    column("class_name", pa.string(), "what the data set calls it"),
                ]
            ),
        ),
        TableSchema(
            "sample",
            ("dataset",),
            pa.schema(
                [
                    CELL,
                    IMAGE,
                    column(
                        "picture",
                        pa.string(),
                        "image: the test image; other_class, any_class: the training image nearest to it",
                    ),
                    column("picture_id", pa.int64(), "position of the picture's image in its source"),
                    LABEL,
                    column(
                        "distance",
                        pa.float64(),
                        "mean absolute pixel difference to the test image in [0, 1]; 0 for itself",
                    ),
                    column("pixels", pa.string(), "SHA-256 of the picture's values, uint8 [C, H, W]"),
                    # Pillow and zlib may pack the same values in other bytes.
                    column("png", pa.binary(), "the picture as a PNG file", circumstance=True),
                ]
            ),
        ),
        TableSchema(
            "attack",
            ("dataset", "split", "attack"),
            pa.schema(
                [
                    CELL,
                    NAME,
                    METHOD,
                    *NETWORK,
                    *ATTACK,
                    IMAGE,
                    LABEL,
                    column("predicted", pa.int32(), "class that the network gives the clean image"),
                    column(
                        "adversarial_predicted", pa.int32(), "class that it gives the saved adversarial image"
                    ),
                    *norms(),
                    column("draws", pa.int32(), DRAWS, optional=True),
                    # Fragility: how much it takes to undo an attack on the very network that it was made on.
                    column(
                        "rounded_predicted",
                        pa.int32(),
                        "class that it gives the adversarial image rounded to 256 levels",
                        optional=True,
                    ),
                    column(
                        "noisy_predicted",
                        pa.int32(),
                        "class that it gives the adversarial image + N(0, .02), clipped to [0, 1]",
                        optional=True,
                    ),
                    column(
                        "bfloat16_predicted",
                        pa.int32(),
                        "class that it gives the adversarial image when it computes in bfloat16",
                        optional=True,
                    ),
                ]
            ),
        ),
        TableSchema(
            "evaluation",
            ("dataset", "split", "access"),
            pa.schema(
                [
                    CELL,
                    *TESTED,
                    column("attack", pa.string(), "name of the attack in the study; none for clean images"),
                    *ATTACK,
                    column(
                        "source",
                        pa.string(),
                        "name of the network that the attack was made on, null for clean images",
                    ),
                    IMAGE,
                    LABEL,
                    column("prediction", pa.int32(), "class that the network gives"),
                    column("draws", pa.int32(), DRAWS, optional=True),
                    # Of images made against this very network; of others they stand in table `attack`.
                    *norms(optional=True),
                ]
            ),
        ),
        TableSchema(
            "check",
            ("dataset",),
            pa.schema(
                [
                    CELL,
                    *TESTED,
                    column("check", pa.string(), "name of the check, see docs/checks.md"),
                    column("norm", pa.string(), "norm of the attacks that it rests on, else null"),
                    column("epsilon", pa.float64(), "their radius in [0, 1] units of a value, else null"),
                    column("statistic", pa.float64(), "what was measured; null where it cannot be"),
                    column("threshold", pa.float64(), "from where on it is a warning or a failure"),
                    column("verdict", pa.string(), "pass, warn, fail, or none: it could not be judged"),
                    column("images", pa.int32(), "test images that the statistic rests on"),
                    column("sentence", pa.string(), "the verdict in words"),
                    column("evidence", pa.list_(pa.int64()), "ids of images that show it, 20 at most"),
                ]
            ),
        ),
        TableSchema(
            "certified",
            ("dataset",),
            pa.schema(
                [
                    CELL,
                    *TESTED,
                    column("noise_sd", pa.float64(), "standard deviation of the smoothing noise"),
                    column("selection_draws", pa.int32(), "draws that the class is chosen by (n0)"),
                    column("certification_draws", pa.int32(), "draws that its share is bounded by (n)"),
                    column("alpha", pa.float64(), "probability that a radius is too large, an image"),
                    IMAGE,
                    LABEL,
                    column("prediction", pa.int32(), "class of the smoothed network; -1: it abstains"),
                    column("top_count", pa.int64(), "of the certification draws, those of the chosen class"),
                    column("radius", pa.float64(), "certified l2 radius; 0 where it abstains"),
                    column(
                        "attacked_l2",
                        pa.float64(),
                        "smallest l2 change found that fools the smoothed network; null where none was",
                    ),
                    column(
                        "attacked_draws", pa.int32(), "draws that this was judged by; null where not tried"
                    ),
                ]
            ),
        ),
        TableSchema(
            "training",
            ("dataset", "method"),
            pa.schema(
                [
                    CELL,
                    NAME,
                    *NETWORK,
                    column("epoch", pa.int32(), "0 is the state before training"),
                    column(
                        "loss",
                        pa.float64(),
                        "mean of the objective over the epoch's samples; null at epoch 0",
                    ),
                    column(
                        "clean_accuracy",
                        pa.float64(),
                        "share of clean test images classified correctly after the epoch",
                    ),
                    column(
                        "images_per_s",
                        pa.float64(),
                        "samples trained per second over all workers; null at epoch 0",
                        circumstance=True,
                    ),
                    column(
                        "peak_share",
                        pa.float64(),
                        "share of the GPUs' dense peak FLOP/s reached in training; null on CPUs and others",
                        circumstance=True,
                    ),
                    column(
                        "epoch_s", pa.float64(), "seconds of the epoch, the test included", circumstance=True
                    ),
                    column("device", pa.string(), "device type and name", circumstance=True),
                    column("world_size", pa.int32(), "DDP workers", circumstance=True),
                ]
            ),
        ),
        TableSchema(
            "benchmark",
            ("part",),
            pa.schema(
                [
                    CELL,
                    column("case", pa.string(), "the work that all contenders of the case do"),
                    column("measured_at", pa.string(), "when the case was measured, ISO 8601, UTC"),
                    column("position", pa.int32(), "order of the rows in the table that is printed"),
                    column("contender", pa.string(), "harness, or what a user would pick instead"),
                    column(
                        "turn",
                        pa.int32(),
                        "contenders take turns; the first turn is not counted. Null where not measured",
                    ),
                    column("unit", pa.string(), "what amount and measured count"),
                    column("amount", pa.int64(), "units in the case"),
                    column("measured", pa.int64(), "units that this turn did; cost is proportional to them"),
                    column("seconds", pa.float64(), "wall time of the turn; null where not measured"),
                    column(
                        "cpu_seconds",
                        pa.float64(),
                        "processor time of this process in the turn, without Ray's workers",
                    ),
                    column("threads", pa.int32(), "CPU threads or workers of every contender"),
                    column("device", pa.string(), "device type and name", circumstance=True),
                    column("images", pa.int64(), "training images, where cost grows with them"),
                    column("values", pa.int32(), "values of an image, where cost grows with them"),
                    column("classes", pa.int32(), "classes, where cost depends on them"),
                    column("agreement", pa.float64(), "share of answers equal to the harness's"),
                    column("fooled", pa.float64(), "share of images that left their class"),
                    column("l2", pa.float64(), "mean l2 distance of those"),
                    column("accuracy", pa.float64(), "clean accuracy of the network attacked or trained"),
                    column(
                        "candidates",
                        pa.float64(),
                        "images that the first lower bound leaves, per query; all where there is none",
                    ),
                    column(
                        "overhead_s",
                        pa.float64(),
                        "seconds a training beyond the training itself, after the first",
                    ),
                    column("note", pa.string(), "a contender's settings, or why it was not measured"),
                ]
            ),
            of_studies=False,
        ),
    )
}
