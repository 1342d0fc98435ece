"""The entry point: puts the commands together, and turns every error into its message and exit code."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any

import typer

from internvl_detect import __version__
from internvl_detect.cli.commands import commands
from internvl_detect.cli.data import data
from internvl_detect.cli.evaluate import evaluate
from internvl_detect.cli.serve import serve
from internvl_detect.cli.train_tag import train_tag
from internvl_detect.data.findings import show
from internvl_detect.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, ConfigError, IvdetectError, OutputError

HELP = """Detect AI-generated and tampered pictures and clips; say why, and draw where.

\b
  ivdetect detect photo.jpg clip.mp4             # a verdict for each, by the embedded model
  ivdetect detect folder/ --out results.jsonl    # thousands; --resume goes on after a kill
  ivdetect detect photo.jpg --model InternVL2-8B --adapter runs/mine/adapter --explain
  ivdetect train --config recipes/internvl2_8b_lora.yaml
  ivdetect evaluate --data test.csv --out runs/nano
  ivdetect data check meta.json
"""

# What every mistake on the command line is derived from: click's class, or typer's copy of it, by typer's version.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

# What a disk may answer to any path that a user names.
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

app = typer.Typer(
    name="ivdetect",
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(commands)
app.command("train-tag")(train_tag)
app.command("evaluate")(evaluate)
app.add_typer(data, name="data")
app.add_typer(serve, name="serve")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ivdetect {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point: every error a user can cause ends in its message and exit code, never in a traceback."""
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        code = app(standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # typer turns Ctrl-C into this exit code
            raise typer.Abort
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        _say("ivdetect: interrupted; what was written is whole")
        _leave(EXIT_INTERRUPTED)
    except _UsageError as error:
        error.show()
        _leave(error.exit_code)
    except IvdetectError as error:
        _say(f"ivdetect: {error}")
        _leave(error.exit_code)
    except BrokenPipeError:  # the reader of standard output has gone
        _quiet_stdout()
        _leave(1)
    except OSError as error:
        if error.filename is not None and error.errno not in (*_UNUSABLE, *_FULL):  # no one foresaw it
            _bug(error)
        if error.filename is not None:
            _say(f"ivdetect: {show(os.fsdecode(error.filename), 300)} cannot be used ({error.strerror})")
            _leave(OutputError.exit_code if error.errno in _FULL else ConfigError.exit_code)
        _quiet_stdout()
        _say(f"ivdetect: standard output could not be written ({error.strerror or error})")
        _leave(OutputError.exit_code)
    except Exception as error:
        _bug(error)
    _leave(code if isinstance(code, int) else 0)


def _bug(error: Exception) -> None:
    if os.environ.get("IVDETECT_DEBUG"):
        raise error
    _say(
        f"ivdetect: a bug in this program: {type(error).__name__}: {error}. "
        "Run again with IVDETECT_DEBUG=1 for the traceback and report it"
    )
    _leave(EXIT_INTERNAL)


def _quiet_stdout() -> None:
    """What is still buffered goes nowhere, so that leaving does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(text: str) -> None:
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"), file=sys.stderr)


def _leave(code: int) -> None:
    raise SystemExit(code)
