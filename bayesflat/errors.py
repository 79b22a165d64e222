"""The one exception that stands for a user's mistake, and how another's message gets into its line."""

from __future__ import annotations


class InputError(ValueError):
    """The input or an option is wrong; the message is one line that says what, where, and what is accepted.

    The command line prints the message on stderr and ends with exit status 2.
    """


def first_line(error: Exception | Warning | str) -> str:
    """First line of a message, or the name of the exception where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
