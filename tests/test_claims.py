"""Folders that a run fills: claimed by one run at a time, of one run at every moment, other files never touched."""

import multiprocessing
import os

import pytest

from bayesflat import files
from bayesflat.files import filling
from tests.helpers import message

NAMES = ("log", "config", "plot", "product")  # the most important last
MOVES = range(2 * len(NAMES))


def fill(folder, text, names=NAMES, overwrite=False):
    with filling(folder, NAMES, overwrite) as temporary:
        for name in names:
            (temporary / name).write_text(text)


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_files_appear_together_and_others_stay(tmp_path):
    out = tmp_path / "a" / "out"
    fill(out, "one")
    (out / "notes.txt").write_text("mine")
    fill(out, "two", ("config", "product"), overwrite=True)
    assert content(out) == {"config": "two", "product": "two", "notes.txt": "mine"}


def test_a_failure_leaves_nothing_not_even_a_folder(tmp_path):
    def run():
        with filling(tmp_path / "a" / "out", NAMES) as temporary:
            (temporary / "log").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_folders_that_others_use(tmp_path):
    def run():
        with filling(tmp_path / "a" / "out", NAMES):
            (tmp_path / "a" / "mine").write_text("")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run()
    assert content(tmp_path / "a") == {"mine": ""}


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    out = tmp_path / "out"
    with filling(out, NAMES) as temporary:
        (temporary / "product").write_text("first")
        for overwrite in (False, True):
            text = message(fill, out, "second", overwrite=overwrite)
            assert text == f"{out}: another run is writing to it; give another folder, or wait"
    assert content(out) == {"product": "first"}
    assert "holds product already" in message(fill, out, "second")


def hold(folder, ready, end):
    with filling(folder, NAMES):
        ready.set()
        end.wait(60)


def test_a_claim_ends_with_its_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "out", ready, end))
    other.start()
    assert ready.wait(60)
    assert "another run is writing to it" in message(fill, tmp_path / "out", "mine")
    other.kill()
    other.join()
    fill(tmp_path / "out", "mine")
    assert {name: (tmp_path / "out" / name).read_text() for name in NAMES} == dict.fromkeys(NAMES, "mine")


def test_files_that_came_meanwhile_are_kept(tmp_path):
    """By a program that knows of no claims."""
    out = tmp_path / "out"

    def run():
        with filling(out, NAMES) as temporary:
            (temporary / "product").write_text("mine")
            (out / "product").write_text("theirs")

    assert "holds product already" in message(run)
    assert content(out) == {"product": "theirs"}


@pytest.mark.parametrize("moment", MOVES)
def test_where_the_product_is_all_files_are_of_its_run(tmp_path, moment):
    """Killed between any two of the moves: a child process, which has no time to put anything back."""
    out = tmp_path / "out"
    fill(out, "old")
    (out / "notes.txt").write_text("mine")
    child = os.fork()
    if child == 0:
        real, moves = os.replace, []

        def replace(source, target):
            if len(moves) == moment:
                os._exit(9)
            moves.append(target)
            real(source, target)

        files.os.replace = replace
        fill(out, "new", overwrite=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    found = {path.name: path.read_text() for path in out.iterdir() if path.is_file()}
    assert found.pop("notes.txt") == "mine"
    assert "product" not in found or found == dict.fromkeys(NAMES, "old")
    fill(out, "again", overwrite=True)  # the claim ended with the process
    assert (out / "product").read_text() == "again"


@pytest.mark.parametrize("moment", MOVES)
def test_an_error_between_moves_puts_everything_back(tmp_path, monkeypatch, moment):
    out = tmp_path / "out"
    fill(out, "old")
    real, moves = os.replace, []

    def replace(source, target):
        moves.append(target)
        if len(moves) == moment + 1:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        fill(out, "new", overwrite=True)
    assert content(out) == dict.fromkeys(NAMES, "old")


def test_a_folder_of_a_file_s_name_is_never_replaced(tmp_path):
    (tmp_path / "plot").mkdir()
    assert message(fill, tmp_path, "x").startswith(f"{tmp_path}: holds plot already")
    assert message(fill, tmp_path, "x", overwrite=True).startswith(f"{tmp_path / 'plot'}: is a folder")
    assert list(tmp_path.iterdir()) == [tmp_path / "plot"]


def test_a_link_counts_as_a_file_wherever_it_leads(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "plot").symlink_to(tmp_path / "nowhere")
    assert message(fill, out, "x").startswith(f"{out}: holds plot already")
    fill(out, "x", overwrite=True)
    assert content(out) == dict.fromkeys(NAMES, "x")
    assert not (tmp_path / "nowhere").exists()
