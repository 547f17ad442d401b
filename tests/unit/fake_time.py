"""An event loop whose clock jumps over every wait, so that minutes of waiting are tested in no time. Not a test."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    """Counts the time it is asked to wait instead of waiting; with nothing left to wait for, the work is stuck."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everything waits and nothing is due: stuck")
        # A hair more, as real clocks do: a sum of floats may fall just short of the time it was to reach.
        self.now += timeout + 1e-12 if timeout > 0 else 0.0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumping = _Jumping()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on such a loop. AssertionError if `work` waits for ever."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)
