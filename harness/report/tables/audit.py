"""The audit of sigma: duplicates, labels that may be wrong, and how sure its mean is."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.table import Layout, Line, Table

_SHOWN = 20  # suspected labels; the view has all
_NOTE = (
    "Sigma at k = 1, mean over the images [95 % bootstrap interval]: 1,000 means of as many images, drawn"
    " with replacement. Nearest neighbours are training images. Duplicates: distance 0; near: at most two"
    " of 255 levels a value on average. Disagree: the nearest of any class has another label, suspect: "
    "and is no farther than half of all images are from theirs. A duplicate across classes has sigma 0: "
    "no change is within its bound. Distances are mean l1; other norms are not measured."
)
_SUSPECTED = (
    "Images whose nearest training image has another label and is no farther than half of all images are "
    "from theirs, the closest first: one of the two labels may be wrong, or the two classes meet there. "
    "closer: share of the split's images, in per cent, that are closer to their nearest."
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for the training images, one for the test images."""
    header = (
        *("images", "count", "sigma, another class", "sigma, any class", "duplicates in class", "across"),
        *("near in class", "near across", "disagree", "suspect"),
    )
    if rows:
        yield Table("sigma_audit", "Audit of sigma", _NOTE, header, [_line(row) for row in rows])


def _line(row: Row) -> Line:
    counts = ("same_duplicates", "other_duplicates", "same_near", "other_near", "disagreeing", "suspects")
    return (
        "training" if row["split"] == "train" else "test, against training",
        f"{row['images']:,}",
        _mean(row, "other"),
        _mean(row, "any"),
        *(f"{row[name]:,}" for name in counts),
    )


def _mean(row: Row, kind: str) -> str:
    mean, low, high = (row[f"{kind}_{part}"] for part in ("mean", "low", "high"))
    return f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def lay_out_suspected(study: Row, rows: list[Row]) -> Iterator[Table]:
    """The closest, one a line."""
    if not rows:
        return
    header = ("images", "image", "label", "nearest", "its label", "distance", "closer %")
    lines: list[Line] = [_suspect(row) for row in rows[:_SHOWN]]
    text = _SUSPECTED
    if len(rows) > _SHOWN:
        text += f' The first {_SHOWN} of {len(rows):,}; `harness sql "from suspected_labels"` has all.'
    yield Table("suspected_labels", "Suspected labels", text, header, lines)


def _suspect(row: Row) -> Line:
    ids = (str(row[name]) for name in ("image_id", "label", "neighbour_id", "neighbour_label"))
    return (row["split"], *ids, f"{row['distance']:.4f}", f"{row['closer']:.1f}")


LAYOUT = Layout("sigma_audit", lay_out, printed=False, in_csv=False)
SUSPECTED = Layout("suspected_labels", lay_out_suspected, printed=False, in_csv=False)
