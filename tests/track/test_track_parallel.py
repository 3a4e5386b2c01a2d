"""Frames worked on ahead: in order, in bounded number, errors where they belong."""

import threading
import time

import pytest

from avatar.track.parallel import WORKERS, ahead, batches, side_by_side, single_threaded_libraries


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


def test_works_side_by_side_see_every_frame_in_order_on_one_thread_each():
    seen: dict[str, list[int]] = {"slow": [], "quick": []}
    threads: dict[str, set[int]] = {"slow": set(), "quick": set()}

    def work(name: str, seconds: float):
        def one(index: int) -> tuple[str, int]:
            time.sleep(seconds)
            seen[name].append(index)
            if index:  # the first is done by the reader
                threads[name].add(threading.get_ident())
            return name, index

        return one

    for i, both in enumerate(side_by_side(20, work("slow", 0.002), work("quick", 0))):
        assert both == (("slow", i), ("quick", i))
        assert len(seen["quick"]) <= i + 2 * WORKERS + 2  # no further ahead than that
    assert seen["slow"] == seen["quick"] == list(range(20))
    assert len(threads["slow"]) == len(threads["quick"]) == 1
    assert list(side_by_side(0, work("slow", 0))) == []


def test_an_error_in_one_of_the_works_reaches_the_reader():
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(9, lambda i: i, lambda i: 1 // (4 - i)))


def test_batches_cover_all_once():
    parts = batches(10, 4)
    assert [list(range(10))[part] for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert batches(0, 4) == []


def test_threads_of_the_libraries_are_given_back():
    cv2, torch = pytest.importorskip("cv2"), pytest.importorskip("torch")
    before = cv2.getNumThreads(), torch.get_num_threads()
    with pytest.raises(KeyError), single_threaded_libraries():
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (1, 1)
        raise KeyError
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before
