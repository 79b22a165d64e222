"""Damaged inputs and kills, in the reduced form; `make fuzz` is the full one."""

from collections import Counter

import pytest


@pytest.fixture(scope="module")
def reliability(import_benchmark):
    return import_benchmark("reliability")


@pytest.fixture(scope="module")
def inputs(reliability, tmp_path_factory):
    return reliability.make_inputs(tmp_path_factory.mktemp("whole"))


def test_damaged_inputs_are_refused_or_harmless(reliability, inputs, tmp_path, capsys):
    cases = reliability.fuzz(inputs, tmp_path, 1, seed=26)
    assert [case for case in cases if case.wrong] == []
    counts = Counter(case.kind for case in cases)
    assert set(counts.values()) == {len(reliability.DAMAGE)}
    # what is cut short is always refused
    assert {case.outcome for case in cases if case.damage == "cut" and case.kind != "configuration"} == {"refused"}


@pytest.mark.parametrize("command", ["fit", "apply"])
def test_what_is_killed_leaves_nothing_half_done(reliability, inputs, tmp_path, command):
    cases = reliability.kill(inputs, tmp_path, 1, seed=3, commands=[command])
    assert [case for case in cases if case.wrong] == []


def test_wrong_outcomes_are_seen(reliability, inputs, tmp_path, monkeypatch):
    """A command that raises, one that leaves something, one that says nothing: all are wrong."""
    out = tmp_path / "out"

    def raises(arguments):
        raise KeyError

    def leaves(arguments):
        out.mkdir()
        return 2

    for replacement, expected in ((raises, "traceback"), (leaves, "leaves something behind"),
                                  (lambda _: 2, "more than one line"), (lambda _: 1, "status 1")):  # fmt: skip
        monkeypatch.setattr(reliability, "run", replacement)
        found, _ = reliability._outcome([], out)
        assert found == expected
        assert reliability.Case("", "", 0, found).wrong
        if out.exists():
            out.rmdir()


def test_files_of_two_runs_and_half_files_are_seen(reliability, inputs, tmp_path):
    whole = (inputs.products["dome"]).read_bytes()
    (tmp_path / "a.fits").write_bytes(whole)
    assert reliability._broken(tmp_path) == ""
    (tmp_path / "b.fits").write_bytes(inputs.products["sky"].read_bytes())
    assert reliability._broken(tmp_path).startswith("files of runs ")
    (tmp_path / "b.fits").write_bytes(whole[: len(whole) // 2])
    assert reliability._broken(tmp_path).startswith("b.fits: ")
