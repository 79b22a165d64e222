"""Results that outlast an interruption: a line of a file each, as soon as it is there."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

import bayesflat
from bayesflat.processes import in_processes


def _digest() -> str:
    """Which code a result comes from."""
    digest = hashlib.sha256()
    for path in sorted(Path(bayesflat.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


CODE = _digest()  # now, for files may change while this runs


def read_results(path: Path, wanted: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The rows of that setup, by seed; a last line that an interruption cut short does not count."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["setup"] == json.loads(json.dumps(wanted)):
            rows[row["seed"]] = row
    return rows


def append_result(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line, beginning anew where an interruption cut the last one short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
            file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def run(
    work: Callable, seeds: Iterable[int], arguments: tuple, path: Path, wanted: Mapping[str, Any], processes: int
) -> tuple[list[dict[str, Any]], int]:
    """Do what is not done yet; returns the rows of the seeds, and how many failed with an error."""
    console = Console()
    rows, seeds, failed = read_results(path, wanted), list(seeds), 0
    todo = {seed: (work, seed, *arguments) for seed in seeds if seed not in rows}
    if len(todo) < len(seeds):
        console.print(f"{len(seeds) - len(todo)} of {len(seeds)} are in {path}")
    with closing(in_processes(_attempt, todo, processes)) as results:
        for count, (seed, row) in enumerate(results, 1):
            if isinstance(row, str):
                failed += 1
                console.print(f"[red]{count}/{len(todo)}: seed {seed}: {row}", highlight=False)
                continue
            append_result(path, row)
            rows[seed] = row
            note = "" if row["converged"] else f", {row['message']}"
            console.print(f"{count}/{len(todo)}: seed {seed}, {row['seconds']:.1f} s{note}", highlight=False)
    kept = [rows[seed] for seed in seeds if seed in rows]
    codes = {row["code"] for row in kept}
    if codes - {CODE}:
        others = sum(row["code"] != CODE for row in kept)
        console.print(f"[yellow]{others} results are of bayesflat before its last change; to begin anew, remove {path}")
    return kept, failed


def _attempt(work: Callable, *arguments: Any) -> dict[str, Any] | str:
    """The row, or what went wrong: one failure must not cost the others."""
    logger = logging.getLogger("bayesflat")
    before = logger.level
    logger.setLevel(logging.ERROR)  # what a fit has to say is in its row
    try:
        return work(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        logger.setLevel(before)


def parser(description: str, results: str) -> argparse.ArgumentParser:
    """The options that both calibrations have."""
    options = argparse.ArgumentParser(description=description.split("\n")[0])
    options.add_argument("-o", metavar="DIR", type=Path, default=Path("docs/images"), help="where the figure goes")
    options.add_argument("-n", type=int, default=200, help="how many (default %(default)s)")
    options.add_argument("--seed", type=int, default=0, help="first seed (default %(default)s)")
    options.add_argument("-j", metavar="N", type=int, default=1, help="processes (default %(default)s)")
    options.add_argument("--results", type=Path, help=f"JSON lines to go on with (default {results} beside DIR)")
    return options
