from __future__ import annotations

import os
import random
import threading
import time

import pytest
from hypothesis import given, strategies as st

from medinfer import stream
from medinfer.stream import CHUNKS_AHEAD, available_cores, chunked, ordered_map

every_width = pytest.mark.parametrize("workers", [1, 2, 5])


@every_width
def test_results_come_in_the_order_of_the_items_however_long_each_takes(workers):
    waits = [random.Random(7).uniform(0, 0.004) for _ in range(60)]

    def slow(number):
        time.sleep(waits[-number])
        return number * number

    assert list(ordered_map(slow, range(60), workers=workers)) == [number * number for number in range(60)]


@every_width
def test_no_items_give_no_results(workers):
    assert list(ordered_map(str, [], workers=workers)) == []


@pytest.mark.parametrize("workers", [2, 5])
def test_as_many_items_run_at_once_as_there_are_workers_and_no_more(workers):
    meeting = threading.Barrier(workers, timeout=10)
    running, most = 0, 0
    lock = threading.Lock()

    def work(_):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meeting.wait()  # passes only once all workers are here
        with lock:
            running -= 1

    list(ordered_map(work, range(workers * 6), workers=workers))
    assert most == workers


@every_width
def test_items_are_taken_only_a_few_ahead_of_the_results(workers):
    taken = given_out = furthest = 0

    def source():
        nonlocal taken, furthest
        for number in range(500):
            taken += 1
            furthest = max(furthest, taken - given_out)
            yield number

    results = ordered_map(lambda number: number, source(), workers=workers)
    assert taken == 0
    for _ in results:
        given_out += 1
    assert given_out == 500
    assert furthest <= CHUNKS_AHEAD * workers + 1


@pytest.mark.parametrize("workers", [2, 5])
def test_a_slow_source_does_not_hold_back_a_finished_result(workers):
    done = threading.Event()

    def source():
        yield 1
        assert done.wait(10)
        time.sleep(0.2)  # the event is set a moment before the future is
        yield 2
        pytest.fail("a third item was asked for before the first result was out")

    def work(number):
        done.set()
        return number

    results = ordered_map(work, source(), workers=workers)
    assert next(results) == 1
    results.close()


@every_width
def test_an_exception_of_the_function_is_raised_in_its_place(workers):
    def work(number):
        if number == 7:
            raise KeyError("seven")
        return number

    results = ordered_map(work, range(100), workers=workers)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(KeyError, match="seven"):
        next(results)


@every_width
def test_an_exception_of_the_source_is_raised_after_the_results_of_the_items_before_it(workers):
    def source():
        yield from range(7)
        raise KeyError("seven")

    def work(number):
        time.sleep(0.01)
        return number

    results, seen = ordered_map(work, source(), workers=workers), []
    with pytest.raises(KeyError, match="seven"):
        seen.extend(iter(results))
    # `extend` keeps what came before the exception.
    assert seen == list(range(7))


@every_width
def test_closing_early_ends_the_workers_and_starts_nothing_more(workers):
    before = threading.active_count()
    started = []

    def work(number):
        started.append(number)
        return number

    results = ordered_map(work, iter(range(10_000)), workers=workers)
    assert next(results) == 0
    results.close()
    assert threading.active_count() == before
    count = len(started)
    assert count <= CHUNKS_AHEAD * workers + 1
    time.sleep(0.02)
    assert len(started) == count


@pytest.mark.parametrize("workers", [2, 5])
def test_closing_early_waits_for_what_has_begun_and_drops_what_has_not(workers):
    all_taken, release = threading.Event(), threading.Event()
    started, finished = [], []

    def source():
        for number in range(CHUNKS_AHEAD * workers):
            if number == CHUNKS_AHEAD * workers - 1:
                all_taken.set()
            yield number

    def work(number):
        started.append(number)
        (release if number else all_taken).wait(10)
        finished.append(number)

    results = ordered_map(work, source(), workers=workers)
    next(results)
    threading.Timer(0.1, release.set).start()
    results.close()
    assert sorted(finished) == sorted(started)
    # The first, and one for each worker: the others were waiting their turn.
    assert len(started) <= 1 + workers


def test_one_worker_is_the_callers_own_thread():
    seen = set(ordered_map(lambda _: threading.current_thread(), range(5), workers=1))
    assert seen == {threading.current_thread()}


@given(items=st.lists(st.integers()), size=st.integers(1, 9))
def test_chunks_hold_every_item_in_order_and_only_the_last_is_short(items, size):
    chunks = list(chunked(iter(items), size))
    assert [item for chunk in chunks for item in chunk] == items
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert all(1 <= len(chunk) <= size for chunk in chunks)


def test_chunks_are_made_as_they_are_asked_for():
    items = iter(range(100))
    assert next(chunked(items, 3)) == [0, 1, 2]
    assert next(items) == 3


def test_there_is_at_least_one_core_and_never_more_than_the_machine_has():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 6), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 6), ("nonsense", 6), (None, 6)],
)
def test_a_containers_cpu_quota_limits_the_cores(quota, expected, monkeypatch, tmp_path):
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(quota + "\n")
    monkeypatch.setattr(stream, "Path", lambda _: file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert available_cores() == expected
