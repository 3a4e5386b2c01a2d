"""Frames worked on by several threads, in order, with libraries that start no threads of their own.

What comes out does not depend on the number of threads or on their timing: a frame's work reads nothing that another
frame's work writes (`ahead`), or a thread of its own sees all frames in order (`side_by_side`).

OpenCV, NumPy's BLAS and PyTorch each keep a pool that spins while it waits; on the small jobs of this stage the pools
cost more time than they save (a 6 x 6 solve took 1 ms instead of 10 us on two cores).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from avatar.types import FrameReader

Result = TypeVar("Result")

WORKERS = 2
"""Threads that work ahead; more than the cores of a small machine would only take memory."""


@contextmanager
def single_threaded_libraries() -> Iterator[None]:
    """OpenCV, BLAS and PyTorch on one thread each, everywhere in the process, for the duration."""
    import cv2
    import torch
    from threadpoolctl import threadpool_limits

    opencv, pytorch = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        cv2.setNumThreads(opencv)
        torch.set_num_threads(pytorch)


def ahead(count: int, work: Callable[[int], Result]) -> Iterator[Result]:
    """work(0), work(1), ... in order, computed a few at a time on other threads; memory does not grow with `count`."""
    with ThreadPoolExecutor(WORKERS) as pool:
        yield from _in_order(0, count, lambda index: pool.submit(work, index))


def batches(count: int, size: int) -> list[slice]:
    """0 .. count in parts of `size`, the last one smaller.

    Small operations on arrays gain nothing from threads, which wait for the interpreter's lock in turn: what is done
    per frame in many of them is done for a few frames at once.
    """
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def side_by_side(count: int, *works: Callable[[int], Any]) -> Generator[tuple[Any, ...], None, None]:
    """(a(0), b(0), ...), (a(1), b(1), ...), ... for works that must see the frames in order: each has a thread of its
    own and runs a few frames ahead of the reader. The first frame is done by all of them in turn, on this thread."""
    if count:
        yield tuple(work(0) for work in works)
    with ExitStack() as stack:
        streams = [
            _in_order(1, count, partial(stack.enter_context(ThreadPoolExecutor(1)).submit, work)) for work in works
        ]
        yield from zip(*streams, strict=True)


def lately_read(frames: FrameReader) -> Callable[[int], UInt8[np.ndarray, "H W 3"]]:
    """Reads frames for several threads that work at about the same place: the last few are kept. Nobody may write."""
    return lru_cache(4 * WORKERS)(lambda index: frames[index])


def _in_order(first: int, end: int, begin: Callable[[int], Future[Result]]) -> Iterator[Result]:
    """Results of the jobs begun for first, first + 1, ...; at most 2 WORKERS of them wait to be taken."""
    waiting: deque[Future[Result]] = deque()
    try:
        for index in range(first, end):
            waiting.append(begin(index))
            if len(waiting) > 2 * WORKERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # after an error, or when the reader stops early, nothing more is begun
        for job in waiting:
            job.cancel()
