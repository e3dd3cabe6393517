"""The long run: `make faults`, or, in the tests folder, `python -m faults --faults 200 --table faults.csv`.

Either ends after --rounds, or, with --faults, as soon as so many faults have hit.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from faults import processes, series
from faults.kinds import KINDS
from faults.study import Command, Fault, Reference

_TIMES = 3


def main() -> int:
    # A shell's background job ignores Ctrl-C, and so would the drivers that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = argparse.ArgumentParser(prog="faults", description=__doc__)
    options.add_argument("--study", default="quick")
    options.add_argument(
        "--rounds",
        type=int,
        default=4,
        help="at least so many runs of the study, and until each kind has hit three times",
    )
    options.add_argument(
        "--faults",
        type=int,
        default=None,
        help="runs of the study until so many faults have hit; the last run is played to its end",
    )
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--short", action="store_true", help="one round of few faults, which needs no root")
    options.add_argument(
        "--kind", action="append", metavar="KIND[@STEP]", help="one round of these kinds alone, in this order"
    )
    options.add_argument("--only", type=int, default=None, help="play this round alone")
    options.add_argument("--table", type=Path, default=None, help="write the table as CSV")
    options.add_argument(
        "--reference", type=Path, default=None, help="results of an undisturbed run that is there already"
    )
    options.add_argument(
        "--keep",
        type=Path,
        default=None,
        help="keep logs and results of the undisturbed run in this new folder",
    )
    chosen = options.parse_args()
    series.start()
    place = chosen.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {line}", flush=True)

    # Two ranks in each training, so that there are gangs to break.
    trainings = ("base", "defenses.imperceptible_bound", "defenses.adversarial_images")
    gangs = (f"{training}.workers=2" for training in trainings)
    # Short trainings, in which a minute between checkpoints is for ever; one may be struck more often than
    # a study would try it again.
    compute = ("compute.checkpoint_s=0.5", "compute.retries=9")
    settings = [word for setting in (*gangs, *compute) for word in ("--set", setting)]
    command = Command(chosen.study, ("--workers", "2", *settings))
    faults: list[Fault] = []
    try:
        if chosen.reference is None:
            series.undisturbed(command, place / "undisturbed")
        reference = Reference.of(chosen.reference or place / "undisturbed" / "results")
        say(f"undisturbed: {len(reference.cells)} cells")
        for index, round_ in enumerate(_rounds(chosen)):
            if _enough(chosen, index, faults):
                break
            if chosen.only in (None, index):
                say(
                    f"round {index}, {'two raylets' if round_.cluster else 'a Ray of its own'}: "
                    f"{len(round_.faults)} faults"
                )
                rng = random.Random(f"{chosen.seed} {index} moments")
                series.play(round_, command, reference, place / str(index), rng, say, faults)
    finally:
        for left in processes.below(os.getpid()):
            left.kill()
        rows = series.summary(faults)
        for row in rows:
            say("  ".join(f"{name} {value}" for name, value in row.items()))
        say(f"{len(faults)} faults hit")
        if not chosen.keep:
            shutil.rmtree(place, ignore_errors=True)
    if chosen.table:
        series.write(rows, chosen.table)
    return 0


def _enough(chosen: argparse.Namespace, played: int, faults: list[Fault]) -> bool:
    """Whether the series ends after so many rounds."""
    if chosen.faults is not None and chosen.only is None:
        # In a round of which nothing hits the study is too fast for its faults: no number of rounds helps.
        return len(faults) >= chosen.faults or played > chosen.faults
    rows = series.summary(faults)
    each = len(rows) == len(KINDS) and all(row["times"] >= _TIMES for row in rows)
    is_over = each or chosen.only is not None or played >= 2 * chosen.rounds
    return played >= chosen.rounds and is_over


def _rounds(chosen: argparse.Namespace) -> Iterable[series.Round]:
    if chosen.kind:
        named = [kind.partition("@") for kind in chosen.kind]
        faults = tuple((name, (step,) if step else KINDS[name].steps) for name, _, step in named)
        return [series.Round(faults, any(name == "node killed" for name, _ in faults))]
    return [series.SHORT] if chosen.short else series.rounds(chosen.seed)


if __name__ == "__main__":
    sys.exit(main())
