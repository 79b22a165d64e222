"""Chains of one of PyMC's steps that go on from where they stopped, in processes that end with their parent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bayesflat.errors import InputError
from bayesflat.processes import begin_worker

_AT_ONCE = 10  # draws of a task: so long do processes go on after an interruption

Point = dict[str, NDArray]


@dataclass
class _Chain:
    """Where a chain stands: PyMC's state of the step, the last point, and the draws that are still spent on tuning."""

    state: Any
    point: Point
    tune: int


class Chains:
    """Chains of a step, whose draws come in rounds.

    Parameters
    ----------
    step : pymc.step_methods.BlockedStep
        Blocked over all variables.
    starts : sequence of dict
        By value variable; one for each chain.
    seeds : sequence of int
        One for each chain.
    tune : int
        Draws before the first that is kept.
    """

    def __init__(self, step: Any, starts: Sequence[Point], seeds: Sequence[int], tune: int) -> None:
        self.step = step
        self.chains = []
        for start, seed in zip(starts, seeds, strict=True):
            step.setup_chain(np.random.default_rng(seed), tune, 0)
            step.tune = tune > 0
            step.reset_tuning()
            self.chains.append(_Chain(step.sampling_state, start, tune))

    def advance(
        self, draws: int, pool: Executor | None, told: Callable[[int], None] | None = None, *, strict: bool = False
    ) -> tuple[list[list[Point]], dict[str, NDArray]] | None:
        """So many further draws of each chain; None if one of them is divergent and ``strict``.

        Parameters
        ----------
        draws : int
        pool : concurrent.futures.Executor, optional
            Of `forked`, of a step that is this one; None: in this process, one chain after the other.
        told : callable, optional
            Called with the number of draws, tuning included, whenever some are done.

        Returns
        -------
        points : list of list of dict
            By chain and draw.
        stats : dict of str to numpy.ndarray, shape (n_chains, draws)
            PyMC's of the step.
        """
        points: list[list[Point]] = [[] for _ in self.chains]
        stats: list[list[dict[str, Any]]] = [[] for _ in self.chains]
        for k, n, (state, point, kept) in self._pieces(draws, pool):
            chain = self.chains[k]
            self.chains[k] = _Chain(state, point, max(0, chain.tune - n))
            if strict and any(s["diverging"] for _, s in kept):
                return None
            points[k] += [p for p, _ in kept]
            stats[k] += [s for _, s in kept]
            if told is not None:
                told(n)
        names = [name for name, value in stats[0][0].items() if np.ndim(value) == 0]
        return points, {name: np.array([[s[name] for s in of_chain] for of_chain in stats]) for name in names}

    def _pieces(self, draws: int, pool: Executor | None) -> Iterator[tuple[int, int, Any]]:
        """Chain, number of draws and result of each piece of work; a chain's next piece begins where the last ended."""
        left = [chain.tune + draws for chain in self.chains]

        def next_piece(k: int) -> tuple[int, tuple[Any, Point, int, int]]:
            chain, n = self.chains[k], min(_AT_ONCE, left[k])
            left[k] -= n
            return n, (chain.state, chain.point, min(chain.tune, n), n)

        if pool is None:
            for k in range(len(left)):
                while left[k]:
                    n, task = next_piece(k)
                    yield k, n, _advance(self.step, *task)
            return
        working: dict[Future, tuple[int, int]] = {}
        for k in range(len(left)):
            n, task = next_piece(k)
            working[pool.submit(_advance_inherited, *task)] = k, n
        try:
            while working:
                done, _ = wait(working, return_when=FIRST_COMPLETED)
                for future in done:
                    k, n = working.pop(future)
                    yield k, n, future.result()
                    if left[k]:
                        n, task = next_piece(k)
                        working[pool.submit(_advance_inherited, *task)] = k, n
        finally:
            for future in working:
                future.cancel()


def _advance(step: Any, state: Any, point: Point, tune: int, draws: int) -> tuple[Any, Point, list]:
    """``draws`` further steps, of which the first ``tune`` are not kept: state and point after them, and what is."""
    step.sampling_state = state
    kept = []
    with np.errstate(all="ignore"):  # numbers overflow where a step diverges
        for i in range(draws):
            if i == tune and step.tune:
                step.stop_tuning()
            point, (stats,) = step.step(point)
            if i >= tune:
                kept.append((point, {name: value for name, value in stats.items() if name != "warning"}))
    return step.sampling_state, point, kept


_INHERITED: dict[str, Any] = {}  # too large to send to other processes, which are forked while it is here


@contextmanager
def forked(cores: int, **inherited: Any) -> Iterator[Executor | None]:
    """An executor of processes that know what is `inherited`; None for one core.

    Raises
    ------
    InputError
        A process was killed.
    """
    if cores <= 1:
        yield None
        return
    _INHERITED.update(inherited)
    pool = ProcessPoolExecutor(cores, mp_context=get_context("fork"), initializer=begin_worker)
    try:
        pool.submit(int).result()  # forks
        yield pool
    except BrokenProcessPool:
        raise InputError("a process that was sampling was killed, perhaps because memory ran out") from None
    finally:
        pool.shutdown(cancel_futures=True)
        for name in inherited:
            del _INHERITED[name]


def in_blocks(pool: Executor, work: Callable, *columns: Sequence | NDArray, at_once: int = 25) -> list[Any]:
    """What ``work`` makes of so many rows of the columns at a time, in the processes of `forked`, in their order."""
    parts = [slice(start, start + at_once) for start in range(0, len(columns[0]), at_once)]
    tasks = [pool.submit(work, *(column[part] for column in columns)) for part in parts]
    return [row for task in tasks for row in task.result()]


def known(name: str) -> Any:
    """What a process of `forked` has inherited under that name."""
    return _INHERITED[name]


def _advance_inherited(*task: Any) -> tuple[Any, Point, list]:
    with threadpool_limits(1, "blas"):
        return _advance(known("step"), *task)


def as_arrays(points: Sequence[Sequence[Mapping[str, NDArray]]], names: Sequence[str]) -> NDArray[np.float64]:
    """Points by chain and draw as vectors of the variables' values one after the other: (chains, draws, n)."""
    return np.array(
        [[np.concatenate([np.ravel(point[name]) for name in names]) for point in of_chain] for of_chain in points]
    )
