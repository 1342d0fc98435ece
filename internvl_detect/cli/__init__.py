"""The command ``ivdetect``: parse, call, print. Results go to standard output, progress and errors to standard error.

Heavy imports happen inside the commands, so that ``ivdetect --help`` answers at once. Exit codes: docs/exit-codes.md.
"""

from internvl_detect.cli.entry import app, main

__all__ = ["app", "main"]
