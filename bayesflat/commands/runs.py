"""Which run files are of: each run has an id, which it writes into every file that it leaves."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

from bayesflat.data.binned import BinnedFlat
from bayesflat.errors import InputError
from bayesflat.files import checksum
from bayesflat.gradient.product import FlatGradient

CONFIG = "config.toml"
_CARD = "RUNID"
_COMMENT = "# run "  # first line of a configuration


def new_run() -> str:
    """An id that no other run has."""
    return uuid.uuid4().hex[:12]


def of_run(gradient: FlatGradient, run: str) -> FlatGradient:
    """The product with the id of a run, where it has estimates to put it beside."""
    if gradient.estimates is None:
        return gradient
    header = gradient.estimates.header | {_CARD: (run, "id of the run, in all its files")}
    return replace(gradient, estimates=replace(gradient.estimates, header=header))


def run_of(gradient: FlatGradient) -> str:
    """The id of the run that a product is of; empty where it has none."""
    return "" if gradient.estimates is None else str(gradient.estimates.header.get(_CARD, ("", ""))[0])


def marked(text: str, run: str) -> str:
    """A configuration with the id of its run, as a comment."""
    return f"{_COMMENT}{run}\n{text}"


def run_of_config(path: str | Path) -> str:
    """The id of the run that left a configuration; empty where it has none."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first = file.readline()
    return first.removeprefix(_COMMENT).strip() if first.startswith(_COMMENT) else ""


def check_table(product: str | Path, gradient: FlatGradient, table: str | Path, binned: BinnedFlat) -> None:
    """Refuse the binned table of another run than the product's, unless it is what that run was given.

    Raises
    ------
    InputError
        Both have ids, and these differ.
    """
    one, other = run_of(gradient), binned.run
    inputs = [entry.get("sha256") for entry in gradient.config.get("inputs", [])]
    if one and other and one != other and checksum(table) not in inputs:
        raise InputError(f"{table}: is of run {other}, {product} of run {one}; a product needs the bins of its own run")


def check_beside(product: str | Path, gradient: FlatGradient) -> None:
    """Refuse a product whose folder holds the configuration of another run: what else is there may be of either.

    Raises
    ------
    InputError
        Both have ids, and these differ.
    """
    beside = Path(product).parent / CONFIG
    one, other = run_of(gradient), run_of_config(beside) if beside.is_file() else ""
    if one and other and one != other:
        raise InputError(f"{product}: is of run {one}, {beside} of run {other}; the folder holds files of two runs")


def check_config(config: str | Path, table: str | Path, binned: BinnedFlat) -> None:
    """Refuse a configuration and a binned table that lie in one folder and are of two runs.

    Raises
    ------
    InputError
        Both have ids, and these differ.
    """
    config, table = Path(config), Path(table)
    one, other = run_of_config(config), binned.run
    if one and other and one != other and config.resolve().parent == table.resolve().parent:
        raise InputError(f"{table}: is of run {other}, {config} of run {one}; the folder holds files of two runs")
