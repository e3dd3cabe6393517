"""A command that has answered ends well: no thread of Arrow's holds memory of Python's at its end."""

import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from test_store import ROWS, cell

from harness.results import cell_file, object_store
from harness.results.store import Store

EACH = 8  # endings of each kind
MANY = {name: values * 500 for name, values in ROWS.items()}

# Children of a process without threads have all modules already. Each does one thing and ends as any
# interpreter does, but with 3 where a thread was started meanwhile that is still there: it may hold anything.
ENDINGS = """
import os, pickle, sys
from dataclasses import replace
from harness.results.verification import verify
from harness.results.store import Store

store, cell, other, rows = pickle.load(sys.stdin.buffer)
kinds = {
    "rows": lambda: store.rows(cell.path),
    "metadata": lambda: store.metadata(cell.path),
    "is done": lambda: store.missing([cell, other]),
    "tensors": lambda: store.tensors(cell),
    "verify": lambda: list(verify(store)),
    "write": lambda: store.write(replace(other, spec={"of": os.getpid()}), rows),
}
running = {}

def threads():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1

def wait():
    child, status = os.wait()
    print(running.pop(child), os.waitstatus_to_exitcode(status), sep=": ")

for name in list(kinds) * int(sys.argv[1]):
    if len(running) == 4:
        wait()
    if child := os.fork():
        running[child] = name
        continue
    before = threads()
    kinds[name]()
    sys.exit(3 if threads() > before else 0)
while running:
    wait()
"""


def test_whoever_reads_or_writes_cells_ends_well(tmp_path: Path) -> None:
    store = Store(tmp_path).open()
    store.write(cell(), MANY, {"w": np.ones(100, np.float32)})
    kinds = ("rows", "metadata", "is done", "tensors", "verify", "write")
    task = pickle.dumps((store, cell(), cell(x=1), MANY))
    command = [sys.executable, "-c", ENDINGS, str(EACH)]
    done = subprocess.run(command, input=task, capture_output=True, check=True)
    assert Counter(done.stdout.decode().splitlines()) == {f"{kind}: 0": EACH for kind in kinds}


def test_rows_are_no_memory_of_pythons(tmp_path: Path) -> None:
    """Whoever works on them with threads, as ``sort_by`` does, may end at any time."""
    store = Store(tmp_path).open()
    store.write(cell(), MANY)
    content = store.folder.read(cell().path)
    before = sys.getrefcount(content)
    table = cell_file.decode(content)
    assert table.num_rows == 1000 and sys.getrefcount(content) == before


def test_an_upload_is_no_memory_of_pythons() -> None:
    """Arrow's threads send the parts; they may let go of one when the interpreter is no more."""
    written = []

    class Files:
        def open_output_stream(self, address: str) -> Any:
            return self

        def write(self, payload: Any) -> None:
            written.append(payload)

        def close(self) -> None: ...

    payload = b"x" * 1000
    before = sys.getrefcount(payload)
    object_store.put(Files(), "x", payload)
    (sent,) = written
    assert isinstance(sent, pa.Buffer) and sent.to_pybytes() == payload
    assert sys.getrefcount(payload) == before
