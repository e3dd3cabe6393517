"""A reader beside the study: opens every visible file as soon as it appears, and says what it could not read
or saw written twice.

    python -m faults.reader RESULTS

One JSON line for each finding: [kind, path, detail], kind "partial" or "redone". Ends on SIGTERM after a last
look.
"""

import json
import signal
import sys
import time
from pathlib import Path

from faults import tables

_ENDINGS = {".parquet", ".safetensors", ".json"}


def watch(results: Path) -> None:
    seen: dict[Path, tuple[int, int, int]] = {}
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    while True:
        last = bool(ended)
        for path in tables.visible(results):
            if path.suffix not in _ENDINGS:
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen.get(path) == version:
                continue
            if path.suffix == ".parquet" and path in seen:
                print(json.dumps(["redone", str(path), f"{seen[path]} -> {version}"]), flush=True)
            seen[path] = version
            if problem := tables.unreadable(path):
                print(json.dumps(["partial", str(path), problem]), flush=True)
        if last:
            return
        time.sleep(0.02)


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
