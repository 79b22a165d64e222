"""Stages of long work: who is told what, and what is shown on a terminal."""

import io
import multiprocessing
import os
import subprocess
import sys

import pytest
from rich.console import Console

from bayesflat.stages import shown, stage, watched_by, within
from tests.helpers import Watching


def test_a_watcher_is_told_of_stages_and_steps(caplog):
    caplog.set_level("INFO", logger="bayesflat")
    watching = Watching()
    with watched_by(watching):
        stage("reading")
        at = stage("binning", 3)
        at.advance()
        at.advance(2)
        with within("dome"), within("terms 1 of 8"):
            stage("sampling").say("R-hat 1.02")
    stage("later")
    assert watching.stages == [("reading", None), ("binning", 3), ("dome: terms 1 of 8: sampling", None)]
    assert watching.done == [0, 3, 0]
    assert watching.said == ["R-hat 1.02"]
    assert caplog.messages == ["reading", "binning (3 in all)", "dome: terms 1 of 8: sampling", "R-hat 1.02", "later"]


def test_another_process_tells_nobody():
    watching = Watching()
    with watched_by(watching):
        process = multiprocessing.get_context("fork").Process(target=stage, args=("elsewhere",))
        process.start()
        process.join()
        assert process.exitcode == 0
        stage("here")
    assert watching.stages == [("here", None)]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_the_stage_and_nothing_remains(terminal):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=80)
    with shown(console):
        at = stage("binning", 189)
        at.advance(17)
        with shown(console):  # whoever asks again changes nothing
            stage("sampling").say("round 2")
    text = screen.getvalue()
    if terminal:
        assert "sampling: round 2" in text
        # the line is erased at the end: nothing after the last erasure
        assert text.rstrip().endswith("\x1b[2K") or text.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")
    else:
        assert text.strip() == ""


def test_what_goes_to_a_file_is_not_shown_in_its_place(tmp_path):
    """The stage is on the terminal that stderr is; what is printed meanwhile goes where stdout goes."""
    code = (
        "from rich.console import Console; from bayesflat.stages import shown, stage\n"
        "with shown(Console(stderr=True)):\n    stage('binning'); print('the result')"
    )
    terminal, end = os.openpty()
    with open(tmp_path / "out.txt", "w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, stderr=end, check=True)
    os.close(end)
    screen = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert (tmp_path / "out.txt").read_text() == "the result\n"
    assert "binning" in screen
    assert "the result" not in screen
