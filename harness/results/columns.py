"""Columns that several tables share: each with its meaning and unit."""

import pyarrow as pa


def column(
    name: str, kind: pa.DataType, meaning: str, circumstance: bool = False, optional: bool = False
) -> pa.Field:
    """``circumstance``: of the time and the place where the cell was made; ``optional``: see the table."""
    marks = {"circumstance": circumstance, "optional": optional}
    metadata = {"meaning": meaning, **{mark: "true" for mark, is_set in marks.items() if is_set}}
    return pa.field(name, kind, metadata=metadata)


def norms(optional: bool = False) -> tuple[pa.Field, ...]:
    """Sizes of an image's change, and what it took to make."""
    return (
        column("l0", pa.int32(), "values changed", optional=optional),
        column(
            "mean_l1",
            pa.float64(),
            "mean absolute change over all values, in [0, 1]; comparable with sigma",
            optional=optional,
        ),
        column("l1", pa.float64(), "sum of the absolute changes of all values", optional=optional),
        column("l2", pa.float64(), "euclidean norm of the change, not squared", optional=optional),
        column("linf", pa.float64(), "largest absolute change", optional=optional),
        column(
            "attack_s",
            pa.float64(),
            "seconds of attacking per image: its block's time over the block's size",
            circumstance=True,
            optional=optional,
        ),
    )


KEY = column("network", pa.string(), "key of the training cell")
# Which network a row is about; the same columns wherever one is named, so that `group by` needs no join.
NAME = column("name", pa.string(), "the study's own name of the network")
METHOD = column("method", pa.string(), "how the network was trained: base, the defense's method, or finished")
NETWORK = (
    column("settings", pa.string(), "settings of that method as JSON"),
    column("k", pa.float64(), "k of the bound's defense (eq. 3), else null"),
    column("n", pa.int32(), "perturbations an image of the bound's defense (eq. 5), else null"),
    column("training_attack", pa.string(), "attack whose images the network was trained on, else null"),
    column("training_epsilon", pa.float64(), "its epsilon in [0, 1] units, null where it has none"),
    column(
        "seed",
        pa.int64(),
        "seed of the network, its base network and the attacks on it; a finished model has none itself",
    ),
)
ATTACK = (
    column("attack_method", pa.string(), "algorithm of the attack"),
    column("norm", pa.string(), "norm that epsilon bounds, or that a minimum-norm attack makes small"),
    column("epsilon", pa.float64(), "radius in [0, 1] units of a value, null for minimum-norm attacks"),
    column("step_size", pa.float64(), "step of an iterative l-inf attack in [0, 1] units, else null"),
)
DRAWS = (
    "draws of the network's own randomness whose mean probabilities predictions are of; "
    "null for a network without"
)
CELL = column("cell", pa.string(), "key of the cell that the row belongs to")
IMAGE = column("image_id", pa.int64(), "position of the image in its source, before any subset")
LABEL = column("label", pa.int32(), "true class")
# Of a network that something was measured on.
TESTED = (KEY, NAME, METHOD, *NETWORK)
