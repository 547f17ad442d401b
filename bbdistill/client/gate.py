"""How many attempts are on the wire at once. A waiting retry holds no place, since Retry sits above."""

import asyncio

from bbdistill.client.call import Call, Handler, Reply


class Gate:
    """Lets `concurrency` attempts through at a time, first come first served."""

    def __init__(self, inner: Handler, *, concurrency: int) -> None:
        self._inner = inner
        self._places = asyncio.Semaphore(concurrency)

    async def __call__(self, call: Call, /) -> Reply:
        async with self._places:
            return await self._inner(call)
