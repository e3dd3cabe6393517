"""Run by Ray in place of Python: asks the ``forkserver`` for a fork of it, which then is the worker.

Run as a file, without site-packages, so that it takes but milliseconds: it imports nothing of the harness.
"""

import array
import json
import os
import socket
import sys


def main() -> None:
    """Arguments: the server's socket, then those of Python. Where no server answers this is Python itself."""
    path, *arguments = sys.argv[1:]
    try:
        _ask(path, arguments)
    except OSError:
        os.execv(sys.executable, [sys.executable, *arguments])


def _ask(path: str, arguments: list[str]) -> None:
    """Return once the server has forked. Raises OSError where it does not."""
    words = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        streams = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
        payload = json.dumps(words).encode()
        sent = connection.sendmsg([payload], [streams])
        connection.sendall(payload[sent:])
        connection.shutdown(socket.SHUT_WR)
        if not connection.recv(1):
            raise ConnectionError("the server has ended")


if __name__ == "__main__":
    main()
