"""The one exception that stands for a user's mistake."""

from __future__ import annotations


class InputError(ValueError):
    """The input or an option is wrong; the message is one line that says what, where, and what is accepted.

    The command line prints the message on stderr and ends with exit status 2.
    """
