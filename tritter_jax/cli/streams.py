"""The standard streams as commands need them: open, whoever started the program, and able to take any text."""

import io
import os
import sys


def open_streams() -> None:
    """Open what is closed of standard input, output and error on the null device.

    Otherwise the next file that is opened takes the number of the closed one, and what a library prints there is
    written into that file: a checkpoint, for example. Characters that an encoding lacks are escaped.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)
            if null != number:
                os.close(null)
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - as long as we run
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard(*numbers: int) -> None:
    """Throw away what is still to be written to these descriptors, so that the interpreter does not complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    for number in numbers:
        os.dup2(null, number)
    os.close(null)
