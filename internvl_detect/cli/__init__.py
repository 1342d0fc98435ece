"""The command ``ivdetect``: parse, call, print. Results go to standard output, progress and errors to standard error.

What a command does and prints lies in its room's ``command.py``, or is one call; only a body that joins rooms of one
floor lies here (``data_check``). Heavy imports happen inside the commands, so that ``ivdetect --help`` answers
at once. Exit codes: docs/exit-codes.md.
"""

from internvl_detect.cli.entry import app, main

__all__ = ["app", "main"]
