"""WHAT is measured: the row of each table, with the meaning and the unit of every column.

Columns that stand in a file's path as hive folders (``dataset=mnist/...``) are listed apart: they
must not be repeated inside the file. Images are in [0, 1] everywhere.
"""

from dataclasses import dataclass

import pyarrow as pa

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


def _column(
    name: str, kind: pa.DataType, meaning: str, circumstance: bool = False, optional: bool = False
) -> pa.Field:
    """``circumstance``: of the time and the place where the cell was made; ``optional``: see the table."""
    marks = {"circumstance": circumstance, "optional": optional}
    metadata = {"meaning": meaning, **{mark: "true" for mark, is_set in marks.items() if is_set}}
    return pa.field(name, kind, metadata=metadata)


def _norms(optional: bool = False) -> tuple[pa.Field, ...]:
    """Sizes of an image's change, and what it took to make."""
    return (
        _column("l0", pa.int32(), "values changed", optional=optional),
        _column(
            "mean_l1",
            pa.float64(),
            "mean absolute change over all values, in [0, 1]; comparable with sigma",
            optional=optional,
        ),
        _column("l1", pa.float64(), "sum of the absolute changes of all values", optional=optional),
        _column("l2", pa.float64(), "euclidean norm of the change, not squared", optional=optional),
        _column("linf", pa.float64(), "largest absolute change", optional=optional),
        _column(
            "attack_s",
            pa.float64(),
            "seconds of attacking per image: its block's time over the block's size",
            circumstance=True,
            optional=optional,
        ),
    )


_KEY = _column("network", pa.string(), "key of the training cell")
# Which network a row is about; the same columns wherever one is named, so that `group by` needs no join.
_NAME = _column("name", pa.string(), "the study's own name of the network")
_METHOD = _column(
    "method", pa.string(), "how the network was trained: base, the defense's method, or finished"
)
_NETWORK = (
    _column("settings", pa.string(), "settings of that method as JSON"),
    _column("k", pa.float64(), "k of the bound's defense (eq. 3), else null"),
    _column("n", pa.int32(), "perturbations an image of the bound's defense (eq. 5), else null"),
    _column("training_attack", pa.string(), "attack whose images the network was trained on, else null"),
    _column("training_epsilon", pa.float64(), "its epsilon in [0, 1] units, null where it has none"),
    _column(
        "seed",
        pa.int64(),
        "seed of the network, its base network and the attacks on it; a finished model has none itself",
    ),
)
_ATTACK = (
    _column("attack_method", pa.string(), "algorithm of the attack"),
    _column("norm", pa.string(), "norm that epsilon bounds, or that a minimum-norm attack makes small"),
    _column("epsilon", pa.float64(), "radius in [0, 1] units of a value, null for minimum-norm attacks"),
    _column("step_size", pa.float64(), "step of an iterative l-inf attack in [0, 1] units, else null"),
)
_DRAWS = (
    "draws of the network's own randomness whose mean probabilities predictions are of; "
    "null for a network without"
)
_CELL = _column("cell", pa.string(), "key of the cell that the row belongs to")
_IMAGE = _column("image_id", pa.int64(), "position of the image in its source, before any subset")
_LABEL = _column("label", pa.int32(), "true class")

SCHEMAS = {
    table.name: table
    for table in (
        TableSchema(
            "bound",
            ("dataset", "split"),
            pa.schema(
                [
                    _CELL,
                    _column("neighbours", pa.string(), "other_class (III-A) or any_class"),
                    _IMAGE,
                    _LABEL,
                    _column("neighbour_id", pa.int64(), "nearest training image, the smallest id on ties"),
                    _column("neighbour_label", pa.int32(), "its class"),
                    _column(
                        "distance",
                        pa.float64(),
                        "mean absolute pixel difference in [0, 1] (eq. 2); sigma = distance / (2 k)",
                    ),
                ]
            ),
        ),
        TableSchema(
            "attack",
            ("dataset", "split", "attack"),
            pa.schema(
                [
                    _CELL,
                    _NAME,
                    _METHOD,
                    *_NETWORK,
                    *_ATTACK,
                    _IMAGE,
                    _LABEL,
                    _column("predicted", pa.int32(), "class that the network gives the clean image"),
                    _column(
                        "adversarial_predicted", pa.int32(), "class that it gives the saved adversarial image"
                    ),
                    *_norms(),
                    _column("draws", pa.int32(), _DRAWS, optional=True),
                    # Fragility: how much it takes to undo an attack on the very network that it was made on.
                    _column(
                        "rounded_predicted",
                        pa.int32(),
                        "class that it gives the adversarial image rounded to 256 levels",
                        optional=True,
                    ),
                    _column(
                        "noisy_predicted",
                        pa.int32(),
                        "class that it gives the adversarial image + N(0, .02), clipped to [0, 1]",
                        optional=True,
                    ),
                    _column(
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
                    _CELL,
                    _KEY,
                    _NAME,
                    _METHOD,
                    *_NETWORK,
                    _column("attack", pa.string(), "name of the attack in the study; none for clean images"),
                    *_ATTACK,
                    _column(
                        "source",
                        pa.string(),
                        "name of the network that the attack was made on, null for clean images",
                    ),
                    _IMAGE,
                    _LABEL,
                    _column("prediction", pa.int32(), "class that the network gives"),
                    _column("draws", pa.int32(), _DRAWS, optional=True),
                    # Of images made against this very network; of others they stand in table `attack`.
                    *_norms(optional=True),
                ]
            ),
        ),
        TableSchema(
            "check",
            ("dataset",),
            pa.schema(
                [
                    _CELL,
                    _KEY,
                    _NAME,
                    _METHOD,
                    *_NETWORK,
                    _column("check", pa.string(), "name of the check, see docs/checks.md"),
                    _column("norm", pa.string(), "norm of the attacks that it rests on, else null"),
                    _column("epsilon", pa.float64(), "their radius in [0, 1] units of a value, else null"),
                    _column("statistic", pa.float64(), "what was measured; null where it cannot be"),
                    _column("threshold", pa.float64(), "from where on it is a warning or a failure"),
                    _column("verdict", pa.string(), "pass, warn, fail, or none: it could not be judged"),
                    _column("images", pa.int32(), "test images that the statistic rests on"),
                    _column("sentence", pa.string(), "the verdict in words"),
                    _column("evidence", pa.list_(pa.int64()), "ids of images that show it, 20 at most"),
                ]
            ),
        ),
        TableSchema(
            "certified",
            ("dataset",),
            pa.schema(
                [
                    _CELL,
                    _KEY,
                    _NAME,
                    _METHOD,
                    *_NETWORK,
                    _column("noise_sd", pa.float64(), "standard deviation of the smoothing noise"),
                    _column("selection_draws", pa.int32(), "draws that the class is chosen by (n0)"),
                    _column("certification_draws", pa.int32(), "draws that its share is bounded by (n)"),
                    _column("alpha", pa.float64(), "probability that a radius is too large, an image"),
                    _IMAGE,
                    _LABEL,
                    _column("prediction", pa.int32(), "class of the smoothed network; -1: it abstains"),
                    _column("top_count", pa.int64(), "of the certification draws, those of the chosen class"),
                    _column("radius", pa.float64(), "certified l2 radius; 0 where it abstains"),
                    _column(
                        "attacked_l2",
                        pa.float64(),
                        "smallest l2 change found that fools the smoothed network; null where none was",
                    ),
                    _column(
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
                    _CELL,
                    _NAME,
                    *_NETWORK,
                    _column("epoch", pa.int32(), "0 is the state before training"),
                    _column(
                        "loss",
                        pa.float64(),
                        "mean of the objective over the epoch's samples; null at epoch 0",
                    ),
                    _column(
                        "clean_accuracy",
                        pa.float64(),
                        "share of clean test images classified correctly after the epoch",
                    ),
                    _column(
                        "images_per_s",
                        pa.float64(),
                        "samples trained per second over all workers; null at epoch 0",
                        circumstance=True,
                    ),
                    _column(
                        "peak_share",
                        pa.float64(),
                        "share of the GPUs' dense peak FLOP/s reached in training; null on CPUs and others",
                        circumstance=True,
                    ),
                    _column(
                        "epoch_s", pa.float64(), "seconds of the epoch, the test included", circumstance=True
                    ),
                    _column("device", pa.string(), "device type and name", circumstance=True),
                    _column("world_size", pa.int32(), "DDP workers", circumstance=True),
                ]
            ),
        ),
        TableSchema(
            "benchmark",
            ("part",),
            pa.schema(
                [
                    _CELL,
                    _column("case", pa.string(), "the work that all contenders of the case do"),
                    _column("measured_at", pa.string(), "when the case was measured, ISO 8601, UTC"),
                    _column("position", pa.int32(), "order of the rows in the table that is printed"),
                    _column("contender", pa.string(), "harness, or what a user would pick instead"),
                    _column(
                        "turn",
                        pa.int32(),
                        "contenders take turns; the first turn is not counted. Null where not measured",
                    ),
                    _column("unit", pa.string(), "what amount and measured count"),
                    _column("amount", pa.int64(), "units in the case"),
                    _column("measured", pa.int64(), "units that this turn did; cost is proportional to them"),
                    _column("seconds", pa.float64(), "wall time of the turn; null where not measured"),
                    _column(
                        "cpu_seconds",
                        pa.float64(),
                        "processor time of this process in the turn, without Ray's workers",
                    ),
                    _column("threads", pa.int32(), "CPU threads or workers of every contender"),
                    _column("device", pa.string(), "device type and name", circumstance=True),
                    _column("images", pa.int64(), "training images, where cost grows with them"),
                    _column("values", pa.int32(), "values of an image, where cost grows with them"),
                    _column("classes", pa.int32(), "classes, where cost depends on them"),
                    _column("agreement", pa.float64(), "share of answers equal to the harness's"),
                    _column("fooled", pa.float64(), "share of images that left their class"),
                    _column("l2", pa.float64(), "mean l2 distance of those"),
                    _column("accuracy", pa.float64(), "clean accuracy of the network attacked or trained"),
                    _column(
                        "candidates",
                        pa.float64(),
                        "images that the first lower bound leaves, per query; all where there is none",
                    ),
                    _column(
                        "overhead_s",
                        pa.float64(),
                        "seconds a training beyond the training itself, after the first",
                    ),
                    _column("note", pa.string(), "a contender's settings, or why it was not measured"),
                ]
            ),
            of_studies=False,
        ),
    )
}
