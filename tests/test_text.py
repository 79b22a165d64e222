"""Text from files in messages and headers."""

import pytest

from bayesflat.text import check_name, printable, shown
from tests.helpers import message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("r_57, Größe ± 1 µm", "r_57, Größe ± 1 µm"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("carriage\rreturn", "carriage\\rreturn"),
        ("\x9b31m", "\\x9b31m"),  # one byte that begins a sequence
        ("a\u202eb", "a\\u202eb"),  # from right to left
        (b"fl\xe4t.fits".decode("utf-8", "surrogateescape"), "fl\\xe4t.fits"),
    ],
)
def test_printable(text, expected):
    assert printable(text) == expected
    printable(text).encode("utf-8")


def test_values_are_cut():
    assert shown("x" * 80) == "x" * 80
    assert shown("x" * 100_000) == "x" * 77 + "..."
    assert shown(" two\n  lines ") == "two lines"
    assert len(shown("\x1b" * 1000)) == 80


def test_names_that_headers_hold():
    assert check_name("i_39 (old)", "FILTER", "x.fits") == "i_39 (old)"
    assert message(check_name, "Kaméra", "INSTRUME", "x.ecsv") == (
        "x.ecsv: INSTRUME is Kaméra; FITS headers hold letters without accents, digits and ASCII signs only"
    )
    assert "INSTRUME is \\x1b[31mred; " in message(check_name, "\x1b[31mred", "INSTRUME", "x.ecsv")
    assert message(check_name, "x" * 100_000, "INSTRUME", "x.ecsv") == (
        f"x.ecsv: INSTRUME has 100000 characters ({'x' * 77}...); at most 200 are accepted"
    )
