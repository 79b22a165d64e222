"""The words of the benchmark of terms."""

import pytest
from astropy.table import Table
from rich.console import Console


@pytest.fixture(scope="module")
def terms(import_benchmark):
    return import_benchmark("terms")


def test_the_word_is_what_the_table_says(terms):
    for names, enough, word in (
        (("centroid + gradient", "gradient", "none"), 1, "needed"),
        (("centroid + gradient", "none", "gradient"), 1, "undecided"),
        (("none", "gradient", "outer_gradient"), 0, "no gain"),
        (("outer_gradient", "gradient", "none"), 0, "no gain"),  # another term, whose name ends alike
    ):
        table = Table({"terms": list(names), "enough": [k == enough for k in range(3)]})
        assert terms.word_of(table) == word, names


@pytest.mark.parametrize(("words", "good"), [
    (("no gain", "undecided", "needed"), True), (("undecided", "no gain", "needed"), True),
    (("needed", "needed", "needed"), False), (("no gain", "needed", "undecided"), False),
])  # fmt: skip
def test_a_plane_of_zero_must_not_be_needed_and_a_large_one_must(terms, words, good):
    """Flats whose planes are loosely known do not count."""
    found = {
        f"{plane:g}": {"word": word, "terms": "", "lost without": 1.0, "error": 0.5}
        for plane, word in zip(terms.PLANES, words, strict=True)
    }
    wrong = {key: one | {"word": "needed" if key == "0" else "undecided"} for key, one in found.items()}
    rows = [{"sd": 4e-6, "found": found}, {"sd": 3e-5, "found": wrong}]
    console = Console(width=130, record=True, quiet=True)
    assert terms.print_words(rows, console) == good
    assert not terms.print_words(rows[1:], console)
