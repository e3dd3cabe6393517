"""Seconds of making training images and of training on them, over sizes of the training set (V-F).

    python tests/load/complexity.py [--csv FILE] [--results FOLDER] [--seeds COUNT] [SIZE ...]

A study of digits for each size, over some seeds: the bound's defense (k = 2, n = 10), and adversarial
training with each of the paper's attacks, without Ray, so that nothing else is at work. Writes the view
`complexity`, prints what V-F comes to.
"""

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from harness.report.database import connect
from harness.report.printing import show_query
from harness.report.tables import as_views
from harness.results.store import Store

_SIZES = (100, 200, 400, 800, 1400)
_SOURCES = "[{attack: fgsm, epsilon: 0.1}, {attack: deepfool}, {attack: jsma}, {attack: cw_l2}]"
_SETTINGS = (
    *("dataset.test_limit=30", "dataset.validation_limit=null", "attacks.fgsm.epsilon=[0.1]"),
    *("defenses.imperceptible_bound.k=[2]", "defenses.imperceptible_bound.n=[10]"),
    f"defenses.adversarial_images.sources={_SOURCES}",
    *("white_box={attacks: [fgsm], networks: [base]}", "controls=false", "checks.enabled=false"),
)


def run(size: int, seeds: int, results: Path) -> None:
    """The study of so many training images; what is there stays."""
    sized = (f"name=complexity-{size}", f"dataset.train_limit={size}", f"seeds={list(range(seeds))}")
    settings = (*sized, *_SETTINGS)
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "harness.cli", "run", "quick", *words, "--workers", "0"]
    subprocess.run([*command, "--results", str(results)], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", type=int, default=_SIZES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--csv", type=Path, default=Path("complexity.csv"))
    parser.add_argument("--results", type=Path, help="keep the studies here")
    wanted = parser.parse_args()
    with ExitStack() as stack:
        results = wanted.results or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for size in wanted.sizes:
            run(size, wanted.seeds, results)
        connection = stack.enter_context(connect(Store(results)))
        (table,) = as_views(connection, ("complexity",))
        lines = [",".join(line) for line in (table.header, *table.rows)]
        wanted.csv.write_text("\n".join(lines) + "\n")
        show_query(
            connection,
            "select title, slope, bound_slope, difference, low, high, ratio from complexity_claim",
            "rich",
        )


if __name__ == "__main__":
    main()
