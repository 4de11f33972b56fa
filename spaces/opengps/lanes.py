"""
Who computes when: a small job never waits behind a large one, and no visitor takes the site from the others.

Everything that computes is cut into steps of one protein. There is a lane for the steps of small jobs and one for those
of large jobs; in each, visitors take turns. Waiting costs no thread, and as many threads compute as there are places.
"""

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from gradio.context import LocalContext
from reading import InputError

SMALL = 35_000  # residues, or what costs as much (eleven pictures), of a job in the small lane: some 2 seconds
MAX_WAITING = 100  # requests of a visitor


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


def step_back() -> None:
    """Lower the priority of the thread that this runs in."""
    if sys.platform == "linux":  # elsewhere priorities are those of a process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class Lane:
    """
    Steps of computation, so many at a time; visitors who wait take turns.

    Args:
        places (`int`): Threads.
        yielding (`bool`): Whether threads of other lanes go first where there are fewer cores than threads (on Linux).
    """

    def __init__(self, places: int, yielding: bool = False):
        self.free = places
        self.waiting: dict[str, deque[asyncio.Future]] = {}
        self.threads = ThreadPoolExecutor(places, initializer=step_back if yielding else None)

    async def run(self, visitor: str, step: Callable[..., Any], *args: Any) -> Any:
        """The step's result, computed when it is the visitor's turn."""
        await self._turn(visitor)
        if client_is_gone():
            self._pass_on()
            raise ClientGone
        future = asyncio.get_running_loop().run_in_executor(self.threads, step, *args)
        future.add_done_callback(self._pass_on)  # also if nobody awaits it any more: the thread computes to its end
        return await asyncio.shield(future)

    async def _turn(self, visitor: str) -> None:
        if self.free:
            self.free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(visitor, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._pass_on()
            raise

    def _pass_on(self, *_: Any) -> None:
        for visitor in list(self.waiting):
            places = self.waiting.pop(visitor)
            while places:
                place = places.popleft()
                if not place.done():
                    if places:
                        self.waiting[visitor] = places  # behind the other visitors
                    place.set_result(None)
                    return
        self.free += 1


small, large = Lane(1), Lane(1, yielding=True)
jobs: dict[str, int] = {}  # requests of each visitor, at work and waiting
large_jobs: dict[str, asyncio.Lock] = {}  # of each visitor: one at a time


@asynccontextmanager
async def job(visitor: str, cost: int) -> AsyncIterator[Lane]:
    """
    The lane for the steps of a request that costs as much as so many residues; a visitor has one large one at a time.

    Raises:
        InputError: If too many requests of the visitor wait.
    """
    if jobs.get(visitor, 0) >= MAX_WAITING:
        raise InputError(
            f"{MAX_WAITING} requests from your address wait already: send the next one when they are done."
        )
    jobs[visitor] = jobs.get(visitor, 0) + 1
    try:
        if cost <= SMALL:
            yield small
        else:
            async with large_jobs.setdefault(visitor, asyncio.Lock()):
                yield large
    finally:
        jobs[visitor] -= 1
        if not jobs[visitor]:
            del jobs[visitor]
            large_jobs.pop(visitor, None)


def current_visitor() -> str:
    """The address that the request that is being answered came from, as far as the server knows it."""
    client = getattr(LocalContext.request.get(None), "client", None)
    return getattr(client, "host", None) or "unknown"


def current_page() -> str:
    """Tells open pages apart."""
    return str(getattr(LocalContext.request.get(None), "session_hash", None))


def client_is_gone() -> bool:
    """Whether whoever sent the request that is being answered has closed the connection."""
    blocks, event = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    if blocks is None or event is None:
        return False
    running = (one for several in blocks._queue.active_jobs if several for one in several)
    return any(one._id == event and not one.alive for one in running)
