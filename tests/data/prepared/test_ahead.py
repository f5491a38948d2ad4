import subprocess
import sys
import threading
import time

import pytest
from support.torchrun import wait_for

from dist_rmd.data.prepared.ahead import AHEAD, ahead


def test_results_come_in_order_from_several_threads():
    names = set()

    def work(i):
        names.add(threading.current_thread().name)
        time.sleep(0.002 * (i % 3))
        return i * i

    assert list(ahead(work, 50, 3)) == [i * i for i in range(50)]
    assert len(names) == 3
    assert list(ahead(work, 0, 3)) == []


def test_no_more_is_begun_than_a_little_ahead():
    begun = []
    results = ahead(lambda i: begun.append(i), 100, 2)
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 2 * AHEAD + 1
    results.close()
    time.sleep(0.05)
    assert len(begun) <= 2 * AHEAD + 1


def test_an_error_comes_through_and_threads_do_not_stay():
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda i: 1 // (3 - i), 10, 2))
    wait_for(lambda: threading.active_count() == before, 60)


def test_a_thread_that_hangs_keeps_nobody(tmp_path):
    """A read that never returns, here of a pipe that nobody writes to."""
    script = (
        "import os, signal, sys; from dist_rmd.data.prepared.ahead import ahead; os.mkfifo(sys.argv[1])\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print(flush=True)\n"
        "list(ahead(lambda i: open(sys.argv[1]).read(), 3, 2))"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "pipe")], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        time.sleep(0.2)
        process.terminate()
        assert process.wait(10) == 143
