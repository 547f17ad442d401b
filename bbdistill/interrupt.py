"""Ctrl-C and SIGTERM on the command line: the first asks for a stop, the second ends the process at once."""

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

EXIT_CODE = 130
_STOPPING = b"\nstopping: nothing new is sent, calls in flight are awaited; once more (Ctrl-C) stops at once\n"
_STOPPED = b"\nstopped at once; what is stored is kept, the answers of calls in flight are lost\n"
_SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def stoppable() -> Generator[threading.Event]:
    """Gives the event that the first signal sets. Only for the main thread."""
    stop = threading.Event()

    def heard(*_: object) -> None:
        if stop.is_set():
            # Not by an exception, which would wait for whatever is being closed. The store bears it like a power cut.
            _write((_SHOW_CURSOR if sys.stderr.isatty() else b"") + _STOPPED)
            os._exit(EXIT_CODE)
        stop.set()
        _write(_STOPPING)

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(text: bytes) -> None:
    # Past Python's buffers, which a signal may have interrupted in the middle of a write.
    with suppress(OSError):
        os.write(2, text)
