"""Streams: work beside the thread that consumes them, in order and in bounded memory; and who has the error stream."""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Result = TypeVar("Result")

# Held by who writes a line to the process's error stream, and by who closes it to others' (``hands.py``).
error_stream = threading.RLock()

# Bytes of a picture file from which a thread pays: Python runs one thread at a time outside the decoder, and threads
# that take turns over small files need half as long again as one alone (docs/performance.md).
_WORTH_A_THREAD = 16_384


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    size: Callable[[Item], float],
    ahead: int = 64,
) -> Iterator[Result]:
    """Yield ``function(item)`` in order; large items are done by threads, at most ``ahead`` before they are asked for.

    Like ``Executor.map``, which would take all of ``items`` at once and so hold a whole archive in memory. ``items``
    is drawn in the consuming thread, so it may read a file that threads must not share. ``size`` gives the bytes to
    decode, or infinity for other work; the consuming thread does small items itself.
    """
    pool = ThreadPoolExecutor(processors())
    waiting: deque[Callable[[], Result]] = deque()
    try:
        for item in items:
            small = size(item) < _WORTH_A_THREAD
            waiting.append(partial(function, item) if small else pool.submit(function, item).result)
            if len(waiting) > ahead:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()
    finally:
        pool.shutdown(cancel_futures=True)


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of ``size`` items, the last one perhaps shorter (``itertools.batched`` of Python 3.12)."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def processors() -> int:
    """Processors this process may use (a container may allow fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
