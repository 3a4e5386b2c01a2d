"""Frames worked on ahead: in order, in bounded number, errors where they belong."""

import threading
import time

import pytest

from avatar.track.parallel import WORKERS, ahead, single_threaded_libraries


def test_results_come_in_order_and_only_a_few_are_begun_early():
    begun, lock, most = [0], threading.Lock(), 0

    def work(index: int) -> int:
        with lock:
            begun[0] += 1
        time.sleep(0.002 * (index % 3))
        return index * index

    for taken, result in enumerate(ahead(40, work)):
        assert result == taken * taken
        most = max(most, begun[0] - taken)
    assert most <= 2 * WORKERS + 1


def test_an_error_of_one_frame_reaches_the_reader_at_its_place():
    def work(index: int) -> int:
        if index == 5:
            raise ValueError("frame 5")
        return index

    results = ahead(100, work)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="frame 5"):
        next(results)


def test_threads_of_the_libraries_are_given_back():
    cv2, torch = pytest.importorskip("cv2"), pytest.importorskip("torch")
    before = cv2.getNumThreads(), torch.get_num_threads()
    with pytest.raises(KeyError), single_threaded_libraries():
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (1, 1)
        raise KeyError
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before
