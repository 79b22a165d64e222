"""Work in several processes, or on the workers of a cluster, which ends when its parent ends."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

from bayesflat.errors import InputError, first_line
from bayesflat.logs import capture_records

log = logging.getLogger(__name__)

Workers = int | Executor

_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_ALONE = threading.Lock()
_HERE = uuid4().hex  # this process, whatever the machine
_RECORDS = "bayesflat_records"  # attribute of an error
SCHEDULER_TIMEOUT = 10  # s, until a scheduler must have answered


def in_processes(
    work: Callable,
    tasks: Mapping[Any, tuple],
    workers: Workers,
    doing: str = "working",
    *,
    names: Mapping[Any, str] | None = None,
    errors: dict[Any, Exception] | None = None,
) -> Generator[tuple[Any, Any]]:
    """Yield the result of each task as it comes: from this process, from several, or from an executor.

    Parameters
    ----------
    work : callable
        Called with a task's arguments; must be known by its module's name, for other processes to find it.
    tasks : mapping to tuple
        Arguments, by a key that comes back with the result.
    workers : int or concurrent.futures.Executor
        Number of processes: no more than there are tasks are started, and with one all is done in this process.  Or an
        executor, such as a Dask cluster's, which stays open; each of its processes works on one task at a time.
    doing : str
        What an error message says that the workers do.
    names : mapping to str, optional
        What an error message calls a task that was lost with its worker.
    errors : dict, optional
        Takes the exceptions by their tasks' keys, and the other tasks go on; without it the first one is raised.

    Raises
    ------
    InputError
        A process was killed.

    Notes
    -----
    Close the generator (``contextlib.closing``) to end the processes where the results are not all asked for.
    """
    if isinstance(workers, Executor):
        yield from _submitted(workers, work, tasks, doing, names, errors)
        return
    workers = min(workers, len(tasks))
    if workers <= 1:
        for key, task in tasks.items():
            try:
                result = work(*task)
            except Exception as error:
                if errors is None:
                    raise
                errors[key] = error
                continue
            yield key, result
        return
    # fork would copy the threads' locks of whatever the caller has running
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker)
    try:
        yield from _submitted(pool, work, tasks, doing, names, errors)
    finally:
        pool.shutdown(cancel_futures=True)


def _submitted(
    pool: Executor,
    work: Callable,
    tasks: Mapping[Any, tuple],
    doing: str,
    names: Mapping[Any, str] | None,
    errors: dict[Any, Exception] | None,
) -> Iterator[tuple[Any, Any]]:
    """As `in_processes`, on an executor."""
    work = partial(_logged, work, _HERE, log.getEffectiveLevel())
    with (
        _signals.deferred(),
        _environment(_ONE_THREAD),
    ):  # submitting starts processes; threads of theirs would only contend
        futures = {pool.submit(work, *task): key for key, task in tasks.items()}
    try:
        for future in as_completed(list(futures)):
            key = futures.pop(future)
            name = (names or {}).get(key, "")
            try:
                result, records = future.result()
                _log_again(records, name)
            except Exception as error:
                _log_again(getattr(error, _RECORDS, ()), name)
                explained = _explained(error, name, doing)
                if errors is not None:
                    errors[key] = explained
                    continue
                if explained is error:
                    raise
                raise explained from None
            yield key, result
    finally:  # also on an error or Ctrl-C: what has not begun never will
        for future in futures:
            future.cancel()


def _explained(error: Exception, name: str, doing: str) -> Exception:
    """One clear line for a worker that was lost; any other error as it is."""
    if isinstance(error, BrokenProcessPool):
        return InputError(f"a process that was {doing} was killed, perhaps because memory ran out; use fewer of them")
    if isinstance(error, CancelledError) or type(error).__name__ in ("KilledWorker", "FutureCancelledError"):
        where = f"{name}: " if name else ""
        return InputError(f"{where}a worker that was {doing} was lost, perhaps because memory ran out")
    if isinstance(error, RuntimeError) and "deserialization" in str(error):
        return InputError("a Dask worker cannot load the work; its Python must have the same bayesflat installed")
    return error


def _logged(work: Callable, submitter: str, level: int, *task: Any) -> tuple[Any, Sequence[logging.LogRecord]]:
    """The result of the work, and the records that it logged in another process than the submitter's.

    One task at a time: threads of a worker would share its log, its warnings and its compiler.
    """
    with _ALONE:
        if submitter == _HERE:
            return work(*task), ()
        with capture_records(level) as records:
            try:
                return work(*task), records
            except Exception as error:
                setattr(error, _RECORDS, records)  # comes along when the error is sent
                raise


def _log_again(records: Sequence[logging.LogRecord], name: str) -> None:
    """Log here what a worker logged, with the task's name where the message does not have it."""
    for record in records:
        message = record.getMessage()
        named = not name or name.rsplit("/", 1)[-1] in message
        logging.getLogger(record.name).log(record.levelno, "%s", message if named else f"{name}: {message}")


@contextmanager
def workers_of(processes: int, dask: str | None = None) -> Iterator[Workers]:
    """Yield a number of processes, or the executor of a Dask cluster while it is connected.

    Parameters
    ----------
    processes : int
    dask : str, optional
        Address of a Dask scheduler (``tcp://host:8786``); its workers need bayesflat, and must see the flats.

    Raises
    ------
    InputError
        ``distributed`` is not installed, or no scheduler answers.
    """
    if dask is None:
        yield processes
        return
    try:
        import dask as dask_module
        from distributed import Client
    except ImportError:
        raise InputError("--dask needs distributed; pip install 'bayesflat[dask]'") from None
    # bins of a whole focal plane are sent with each fit, which Dask would remark upon
    with dask_module.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}):
        try:
            client = Client(dask, timeout=SCHEDULER_TIMEOUT, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(f"--dask {dask}: no Dask scheduler answers there ({first_line(error)})") from None
        with client:
            if not client.scheduler_info()["workers"]:
                log.warning("--dask %s: the scheduler has no workers yet; waiting for some", dask)
            yield client.get_executor()


class Ended(SystemExit):
    """A signal ends this process: what is not finished is removed on the way.

    Libraries that go on with what they have on Ctrl-C, as samplers do, let it pass.
    """

    def __init__(self, number: int) -> None:
        self.status = 128 + number
        self.message = "terminated; nothing was written"
        super().__init__(self.status)


class _Signals:
    """Ends this process and its workers; not while workers are started, which half begun ones would complain of."""

    def __init__(self) -> None:
        self._deferring = False
        self._pending: int | None = None

    def end(self, number: int, frame: object) -> None:
        """What a signal does."""
        if self._deferring:
            self._pending = number
            return
        for child in multiprocessing.active_children():  # else the pool would wait for the work at hand
            child.terminate()
        raise Ended(number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let signals wait."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            if self._pending is not None:
                self.end(self._pending, None)


_signals = _Signals()


def end_on_signals() -> None:
    """Let SIGTERM and the end of the terminal (SIGHUP) end this process and its workers with clean folders."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, _signals.end)


def begin_worker() -> None:
    """Let a worker end with its parent, and on Ctrl-C at once and without a traceback, which the parent prints."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """End this process when its parent ends: workers of a killed parent would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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
