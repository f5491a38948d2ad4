"""What numba compiles, in threads, in forks, and where nothing can be kept."""

import multiprocessing
import threading

import numba
import numpy as np
import pytest

from dist_rmd.data.augment import kernels


@kernels.kept
def add(numbers, result, shared):
    for i in range(len(numbers)):
        result[i] = numbers[i] + shared[0]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("length", [0, 1, 100])
def test_every_row_is_served_once(threads, length):
    numbers, result = np.arange(length), np.zeros(length, np.int64)
    kernels.in_threads(add, threads, (numbers, result), np.array([5]))
    assert result.tolist() == (numbers + 5).tolist()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_thread_arrives(threads):
    def fail(rows):
        raise RuntimeError(f"at row {rows[0]}")

    with pytest.raises(RuntimeError, match="at row"):
        kernels.in_threads(fail, threads, [np.arange(9)])


def test_a_thread_that_is_held_up_leaves_the_rest_to_the_others():
    shares, held_up = {}, threading.Event()

    def work(rows):
        own = shares.setdefault(threading.get_ident(), [])
        own += rows.tolist()
        if 0 in rows:
            assert held_up.wait(60)
        elif len(own) == 60:
            held_up.set()

    kernels.in_threads(work, 2, [np.arange(64)])
    assert sorted(len(own) for own in shares.values()) == [4, 60]
    assert sorted(row for own in shares.values() for row in own) == list(range(64))


def summed(queue) -> None:
    result = np.zeros(9, np.int64)
    kernels.in_threads(add, 2, (np.arange(9), result), np.array([1]))
    queue.put(result.sum().item())


def test_a_forked_process_has_threads_of_its_own():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    summed(queue)
    child = context.Process(target=summed, args=(queue,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert queue.get() == queue.get() == 45


def test_without_a_place_for_numbas_cache_it_compiles_anew():
    made: dict = {}
    exec("def twice(x):\n    x *= 2", made)  # numba keeps nothing of what is in no file
    numbers = np.ones(3)
    kernels.kept(made["twice"])(numbers)
    assert numbers.tolist() == [2, 2, 2]


def test_uncompiled_ends_with_its_block():
    with kernels.uncompiled():
        assert type(numba.typed.Dict()) is dict
    assert numba.njit(lambda: 1).signatures == []
    assert isinstance(numba.typed.Dict(), numba.typed.Dict)
