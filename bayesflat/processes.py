"""Work that is shared among processes, and ends with whoever asked for it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from bayesflat.errors import InputError

_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def in_processes(
    work: Callable, tasks: Mapping[int, tuple], processes: int, doing: str = "working"
) -> Iterator[tuple[int, Any]]:
    """Yield the result of each task as it comes, from this process or from several.

    Parameters
    ----------
    work : callable
        Called with a task's arguments; must be known by its module's name, for other processes to find it.
    tasks : mapping of int to tuple
        Arguments, by a number that comes back with the result.
    processes : int
        No more than there are tasks are started; with one, all is done in this process.
    doing : str
        What an error message says that the processes do.

    Raises
    ------
    InputError
        A process was killed.

    Notes
    -----
    Close the generator (``contextlib.closing``) to end the processes where the results are not all asked for.
    """
    processes = min(processes, len(tasks))
    if processes <= 1:
        for number, task in tasks.items():
            yield number, work(*task)
        return
    # fork would copy the threads' locks of whatever the caller has running
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_die_of_interrupts)
    try:
        with _environment(_ONE_THREAD):  # submitting starts the processes; threads of theirs would only contend
            futures = {pool.submit(work, *task): number for number, task in tasks.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
            del futures[future]
    except BrokenProcessPool:
        raise InputError(
            f"a process that was {doing} was killed, perhaps for want of memory; use fewer than {processes}"
        ) from None
    finally:  # also on an error or Ctrl-C: what has not begun never will
        pool.shutdown(cancel_futures=True)


def _die_of_interrupts() -> None:
    """Let Ctrl-C end a worker on the spot and without a traceback; the parent is the one to speak of it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables for processes that start meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
