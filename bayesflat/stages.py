"""What long work is doing, for whoever watches: a stage and, where it is known, how much of it is done."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Whoever watches the work."""

    def begin(self, name: str, total: int | None) -> None:
        """A stage begins, of so many steps where that is known; the one before has ended."""

    def advance(self, steps: int) -> None:
        """So many further steps are done."""

    def say(self, text: str) -> None:
        """How the stage stands."""


class _Nobody:
    def begin(self, name: str, total: int | None) -> None:
        pass

    def advance(self, steps: int) -> None:
        pass

    def say(self, text: str) -> None:
        pass


@dataclass(frozen=True)
class _Watched:
    """Who watches, and the process that is watched: forked ones have no display."""

    watcher: Watcher
    process: int


_watched = _Watched(_Nobody(), 0)
_within: ContextVar[tuple[str, ...]] = ContextVar("_within", default=())


def _watcher() -> Watcher:
    return _watched.watcher if _watched.process == os.getpid() else _Nobody()


class Stage:
    """A stage that has begun."""

    def advance(self, steps: int = 1) -> None:
        """So many further steps are done."""
        _watcher().advance(steps)

    def say(self, text: str) -> None:
        """Say how it stands."""
        log.info("%s", text)
        _watcher().say(text)


def stage(name: str, total: int | None = None) -> Stage:
    """Begin a stage of the work, which ends where the next one begins; it is logged.

    Parameters
    ----------
    name : str
        What is done, such as "binning".
    total : int, optional
        Number of steps.
    """
    name = ": ".join([*_within.get(), name])
    log.info("%s%s", name, "" if total is None else f" ({total} in all)")
    _watcher().begin(name, total)
    return Stage()


@contextmanager
def within(name: str) -> Iterator[None]:
    """Begin the names of all stages meanwhile with what they are a part of."""
    token = _within.set((*_within.get(), name))
    try:
        yield
    finally:
        _within.reset(token)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Tell a watcher of all stages of this process meanwhile."""
    global _watched
    before, _watched = _watched, _Watched(watcher, os.getpid())
    try:
        yield
    finally:
        _watched = before


class _Display:
    """One line on a terminal: the stage, how much of it is done, and since when it runs."""

    def __init__(self, console: Console | None) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            Task,
            TextColumn,
            TimeElapsedColumn,
        )
        from rich.text import Text

        class Count(MofNCompleteColumn):
            def render(self, task: Task) -> Text:
                return super().render(task) if task.total else Text(f"{task.completed:.0f}" if task.completed else "")

        self.bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), Count(), TimeElapsedColumn(),
            console=console, transient=True,
            # what goes to a file must not be shown in its place
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )  # fmt: skip
        self.name, self.task = "", self.bars.add_task("", total=None, visible=False)

    def begin(self, name: str, total: int | None) -> None:
        self.name = name
        self.bars.remove_task(self.task)
        self.task = self.bars.add_task(name, total=total)

    def advance(self, steps: int) -> None:
        self.bars.advance(self.task, steps)

    def say(self, text: str) -> None:
        self.bars.update(self.task, description=f"{self.name}: {text}")


@contextmanager
def shown(console: Console | None = None) -> Iterator[None]:
    """Show the stages on a terminal or in a notebook meanwhile, unless somebody watches already.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to; by default stdout.
    """
    if not isinstance(_watcher(), _Nobody):
        yield
        return
    display = _Display(console)
    with display.bars, watched_by(display):
        yield
