"""How the program starts and ends."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

from stimage_qupath import console
from stimage_qupath.cli.app import app
from stimage_qupath.errors import CancelledError, StimageError, of_the_machine


def main() -> NoReturn:
    """Run a command and end the process with the exit code of what happened."""
    console.stop_on_terminate()
    code = run(sys.argv[1:])
    if code == CancelledError.exit_code:  # all is cleaned up; to take torch down would keep the user waiting
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code; an error is one sentence on stderr.

    Parameters
    ----------
    arguments
        As after the program's name.
    """
    try:
        app(arguments, prog_name="stimage-qupath")
    except SystemExit as end:  # how the parser ends: 0 after --help, 2 after an argument it does not understand
        return end.code if isinstance(end.code, int) else 0
    except StimageError as error:
        console.say_error(f"error: {error}")
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort: a fault of ours must still end with our exit code
        known = of_the_machine(error)
        if known is not None:
            console.say_error(f"error: {known}")
            return known.exit_code
        console.say_error(f"internal error: {error!r}; please report this with the lines below")
        traceback.print_exc()
        return StimageError.exit_code
    return 0
