"""Frames worked on by several threads, in order, with libraries that start no threads of their own.

OpenCV, NumPy's BLAS and PyTorch each keep a pool that spins while it waits; on the small jobs of this stage the pools
cost more time than they save (a 6 x 6 solve took 1 ms instead of 10 us on two cores).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

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
        waiting: deque[Future[Result]] = deque()
        try:
            for index in range(count):
                waiting.append(pool.submit(work, index))
                if len(waiting) > 2 * WORKERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # after an error, or when the reader stops early, nothing more is begun
            for job in waiting:
                job.cancel()
