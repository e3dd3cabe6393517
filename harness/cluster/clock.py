"""The wall clock beside a Ray that was started here: put back, it stops Ray's timers for as long.

Ray counts what it waits for by the wall clock, and was seen to wait twelve hours with one put back so far.
What works with that Ray is interrupted, and has to start again with another, in a new process: in this one
whatever was being imported is left half imported. A clock put forward does no harm.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from harness.errors import StartAgain

_LOOK_S = 1.0
# The wait that is put up with: clocks are set by a second or two now and then.
_PUT_BACK_S = 30.0
# Python drops what a handler raises in a weak reference's callback, so that it has to be raised again.
_AGAIN_S = 20.0


class Watch:
    """A thread that interrupts the main thread when the wall clock falls behind the machine's own.

    ``put_back_s``: by how much it had when the main thread was interrupted; 0 until then. A Ctrl-C or SIGTERM
    that comes while the interrupted work is being left waits for the end of that.
    """

    def __init__(self) -> None:
        self.put_back_s = 0.0
        self._behind_s = 0.0
        self._ended = threading.Event()
        self._stops: list[int] = []
        self._thread = threading.Thread(target=self._look, name="clock", daemon=True)
        # What is ignored by default: one that comes late does no harm.
        self._handlers: dict[int, Any] = {signal.SIGURG: signal.signal(signal.SIGURG, self._interrupt)}
        self._thread.start()

    def _look(self) -> None:
        furthest_s = _ahead_s()
        while self._behind_s <= _PUT_BACK_S:
            if self._ended.wait(_LOOK_S):
                return
            furthest_s = max(furthest_s, _ahead_s())
            self._behind_s = furthest_s - _ahead_s()
        while not self._ended.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)
            self._ended.wait(_AGAIN_S)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise what Ctrl-C raises: of what a handler can raise, Ray's calls hand only that on as it is."""
        if not self.put_back_s:
            for stop in (signal.SIGINT, signal.SIGTERM):
                self._handlers[stop] = signal.signal(stop, self._note)
        self.put_back_s = self._behind_s
        raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._stops.append(number)

    def end(self) -> None:
        """No more interrupts: what is inside is being left."""
        self._ended.set()
        self._thread.join()

    def close(self) -> None:
        """Let signals do what they did before; those that waited come now."""
        self.end()
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for number in self._stops:
            signal.raise_signal(number)


def _ahead_s() -> float:
    """By how much the wall clock is ahead of the one that nobody sets."""
    return time.time() - time.monotonic()


@contextmanager
def watched() -> Iterator[Watch | None]:
    """Interrupt what runs inside, and raise StartAgain, when the wall clock is put back by half a minute.

    Only the main thread can be interrupted: elsewhere nothing is watched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    watch = Watch()
    try:
        yield watch
    except KeyboardInterrupt:
        if watch.put_back_s:
            raise StartAgain(
                f"the clock was put back by {watch.put_back_s:.0f} s, and the Ray that was started here "
                "waits as long: the same command goes on, what is finished stays"
            ) from None
        raise
    finally:
        watch.close()
