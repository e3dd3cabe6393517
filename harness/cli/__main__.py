"""`python -m harness.cli`: the same as `harness`."""

import os

from harness.cli import main

if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
