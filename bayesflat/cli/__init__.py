"""The command line: parse options, run a command, print its results, and print errors in one line."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import click

from bayesflat import __version__
from bayesflat.cli.apply import apply_command
from bayesflat.cli.compare import compare_command
from bayesflat.cli.fit import fit_command
from bayesflat.cli.simulate import demo_command, simulate_command
from bayesflat.commands.results import DONE, INTERRUPTED
from bayesflat.commands.terminal import WRONG_INPUT, fail
from bayesflat.errors import InputError
from bayesflat.processes import Ended, end_on_signals
from bayesflat.text import printable


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def cli() -> None:
    """Large-scale gradients of a wide-field camera's flats.

    Exit status: 0 done, 2 wrong input or options, 3 not converged or diagnostics failed, 130 interrupted,
    143 terminated.
    """


for _command in (fit_command, apply_command, compare_command, simulate_command, demo_command):
    cli.add_command(_command)


def main() -> None:
    """Run the command line and end with its exit status."""
    _occupy_standard_streams()
    end_on_signals()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line on arguments and return its exit status."""
    try:
        return cli.main(arguments, prog_name="bayesflat", standalone_mode=False) or DONE
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return WRONG_INPUT
    except click.ClickException as error:
        return fail(error.format_message())
    except InputError as error:
        return fail(str(error))
    except OSError as error:
        # the disk is full, no permission ...: the user can solve it
        return fail(f"{error.filename or 'file'}: {error.strerror or error}")
    except (KeyboardInterrupt, click.Abort) as error:
        return _ended(str(error) or "interrupted; nothing was written", INTERRUPTED)
    except Ended as error:
        return _ended(error.message, error.status)


def _ended(message: str, status: int) -> int:
    """Say what ended the work, if anybody still listens, and return the exit status."""
    with suppress(OSError):
        click.echo(printable(message), err=True)
    return status


def _occupy_standard_streams() -> None:
    """Let no file that is opened take the number of stdin, stdout or stderr where that is closed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
