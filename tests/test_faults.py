"""A short series of faults (`make faults` is the long one): the tables are those of an undisturbed run,
nothing is done twice.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


@pytest.mark.ray
def test_a_study_through_faults_ends_in_the_same_tables(tiny, tmp_path):
    tiny["base"]["epochs"] = 60  # long enough to be hit
    study, table = tmp_path / "tiny.yaml", tmp_path / "faults.csv"
    study.write_text(yaml.safe_dump(tiny))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    # A process of its own: it adopts whatever the faults leave without a parent, and ends it.
    command = [sys.executable, "-m", "faults", "--short", "--study", str(study), "--table", str(table)]
    told = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert told.returncode == 0, told.stdout
    with table.open() as file:
        rows = {row["fault"]: row for row in csv.DictReader(file)}
    # A kill can come too late on a fast machine: it then counts as missed, not as a fault.
    assert {"driver killed", "byte flipped", "empty file"} <= rows.keys() and len(rows) >= 5, told.stdout
    for row in rows.values():
        assert (row["lost"], row["doubled"], row["redone"], row["identical"]) == ("0", "0", "0", "yes"), (
            told.stdout
        )
