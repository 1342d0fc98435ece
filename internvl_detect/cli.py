"""The command ``ivdetect``: parse, call, print. Results go to standard output, progress and errors to standard error.

Heavy imports happen inside the commands, so that ``ivdetect --help`` answers at once. Exit codes: docs/exit-codes.md.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from internvl_detect import __version__
from internvl_detect.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, IvdetectError, OutputError

HELP = """Detect AI-generated and tampered pictures and clips; say why, and draw where.

\b
  ivdetect detect photo.jpg clip.mp4             # a verdict for each, by the embedded model
  ivdetect detect folder/ --out results.jsonl    # thousands; --resume goes on after a kill
  ivdetect detect photo.jpg --model InternVL2-8B --adapter runs/mine/adapter --explain
  ivdetect train --config recipes/internvl2_8b_lora.yaml
  ivdetect data check meta.json
"""

app = typer.Typer(
    name="ivdetect",
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Training and test data.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

Model = Annotated[str, typer.Option("--model", "-m", help="Model folder, or nano (embedded).", envvar="WEIGHT_PATH")]
Adapter = Annotated[str | None, typer.Option("--adapter", "-a", help="LoRA adapter folder; none: the base alone.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Frames = Annotated[int, typer.Option(min=1, max=512, help="Frames of a clip to look at.")]
MaxTiles = Annotated[int | None, typer.Option(min=1, max=256, help="Most tiles of a picture; default: the adapter's.")]
BatchSize = Annotated[int, typer.Option(min=1, max=1024, help="Files judged together.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


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


@app.command()
def detect(
    files: Annotated[list[str], typer.Argument(help="Pictures, clips, folders, or - for paths on standard input.")],
    model: Model = "nano",
    adapter: Adapter = None,
    explain: Annotated[bool, typer.Option("--explain", "-e", help="Add the model's words.")] = False,
    max_words: Annotated[int, typer.Option(min=1, max=4096, help="Most tokens of the words.")] = 64,
    regions: Annotated[
        bool, typer.Option("--regions", help="Ask about every tile alone; say which look fake.")
    ] = False,
    question: Annotated[str | None, typer.Option(help="Ask this instead; yes must mean fake.")] = None,
    json_: Json = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write one JSON line a file here.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out: what has a verdict is left out.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a self-contained HTML report here.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Write mask and overlay PNGs of suspicious tiles here.")] = None,
    fakeshield: Annotated[bool, typer.Option("--fakeshield", help="Add FakeShield's keys: image, outputs.")] = False,
    calibration: Annotated[Path | None, typer.Option(help="A file from 'ivdetect calibrate --out'.")] = None,
    frames: Frames = 8,
    max_tiles: MaxTiles = None,
    tile_mode: Annotated[str | None, typer.Option(help="dynamic or native; default: the adapter's.")] = None,
    batch_size: BatchSize = 8,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Threads that decode ahead.")] = 2,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attn: Annotated[str, typer.Option(help="sdpa, eager, flash_attention_2.")] = "sdpa",
    quantize: Annotated[str | None, typer.Option(help="nf4 or int8 (native folder, GPU, bitsandbytes).")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show notes, timings and frames.")] = False,
) -> None:
    """Judge pictures and clips: score, decision, and words when asked for.

    \b
      ivdetect detect photo.jpg --explain
      ivdetect detect folder/ --out results.jsonl --resume --report report.html
      find . -name '*.jpg' | ivdetect detect - --json
    """
    from internvl_detect.detect.command import DetectCommand

    command = DetectCommand(
        explain=explain,
        regions=regions or masks is not None,
        frames=frames,
        batch_size=batch_size,
        workers=workers,
        as_json=json_,
        out=out,
        resume=resume,
        report=report,
        masks=masks,
        fakeshield=fakeshield,
        calibration=calibration,
        verbose=verbose,
    )
    options: dict[str, Any] = {"dtype": dtype, "device": device, "attn": attn, "quantize": quantize}
    options |= {"max_tiles": max_tiles, "tile_mode": tile_mode, "question": question, "word_tokens": max_words}
    raise typer.Exit(command.run(files, model, adapter, **options))


@app.command()
def report(
    rows: Annotated[Path, typer.Argument(help="Results: the file of 'ivdetect detect --out'.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Name in .html or .md; default: ROWS.html.")] = None,
) -> None:
    """Make a report of stored results: one HTML file, or Markdown. Pictures are shown where they can still be read.

    \b
      ivdetect report results.jsonl --out report.html
    """
    from internvl_detect.detect.results_file import load_rows
    from internvl_detect.report.command import write

    typer.echo(write(list(load_rows(rows)), out or rows.with_suffix(".html")))


@app.command()
def train(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="A YAML recipe; see recipes/.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", "-s", help="key=value, over everything else.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the resolved settings and stop.")] = False,
    json_: Json = False,
) -> None:
    """Fine-tune by LoRA, from a meta JSON to an adapter folder; a killed run goes on with the same command.

    \b
      ivdetect train --config recipes/internvl2_8b_lora.yaml --set weight_path=InternVL2-8B --set data_path=meta.json
    """
    from internvl_detect.config import load_train_config

    settings = load_train_config(config, sets or [], os.environ)
    if show:
        typer.echo(settings.to_yaml(), nl=False)
        return
    from internvl_detect.train.finetune import run
    from internvl_detect.train.outcome import in_words

    result = run(settings)
    if int(os.environ.get("RANK", "0")) == 0:
        typer.echo(json.dumps(dataclasses.asdict(result), default=str) if json_ else in_words(result))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="An InternVL2 folder as downloaded, or with LoRA layers inside.")],
    destination: Annotated[Path, typer.Argument(help="The folder to write.")],
    dtype: Annotated[str, typer.Option(help="auto keeps the stored type.")] = "auto",
) -> None:
    """Write a model in transformers' own format, which opens without this package and without remote code."""
    from internvl_detect.model.checkpoint import convert as run

    typer.echo(run(source, destination, dtype=dtype))


@app.command()
def merge(
    base: Annotated[str, typer.Argument(help="Model folder, or nano.")],
    adapter: Annotated[Path, typer.Argument(help="Adapter folder: PEFT, or the original code's.")],
    destination: Annotated[Path, typer.Argument(help="The folder to write.")],
) -> None:
    """Write base and adapter as one model, in transformers' own format."""
    from internvl_detect.model.adapter import merge as run

    typer.echo(run(base, adapter, destination))


@app.command()
def calibrate(
    real: Annotated[list[str] | None, typer.Option(help="Authentic files or folders.")] = None,
    fake: Annotated[list[str] | None, typer.Option(help="Generated or tampered files or folders.")] = None,
    rows: Annotated[Path | None, typer.Option(help="Or: results (JSONL of 'ivdetect detect --out') ...")] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="... with a manifest (CSV, JSONL) that has their labels.")
    ] = None,
    model: Model = "nano",
    adapter: Adapter = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a file here, not beside the adapter.")] = None,
    target_error: Annotated[float, typer.Option(help="Error rate that either side may have.")] = 0.05,
    json_: Json = False,
    batch_size: BatchSize = 8,
    frames: Frames = 8,
    max_tiles: MaxTiles = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Fit the probability and the two thresholds on your own files: about 100 with known labels.

    \b
      ivdetect calibrate --real mine/real --fake mine/fake --out calibration.json
      ivdetect detect new/ --calibration calibration.json
    """
    from internvl_detect.detect.calibrate_files import calibrate_files, calibrate_rows, in_words, store

    if rows is not None:
        fitted = calibrate_rows(rows, manifest, target_error)
    else:
        options = {"max_tiles": max_tiles, "device": device, "dtype": dtype}
        fitted = calibrate_files(real or [], fake or [], model, adapter, target_error, batch_size, frames, **options)
    where = store(fitted, out, model, adapter)
    typer.echo(json.dumps(fitted.to_dict()) if json_ else f"{in_words(fitted)}\nwritten to {where}")


@app.command()
def doctor(
    model: Model = "nano",
    adapter: Adapter = None,
    json_: Json = False,
) -> None:
    """Check this machine: versions, devices, decoders, and that the model loads and answers."""
    from internvl_detect.doctor import examine

    raise typer.Exit(examine(model, adapter, as_json=json_))


@data_app.command("check")
def data_check(
    meta: Annotated[Path, typer.Argument(help="Meta JSON of named datasets.")],
    choice: Annotated[str, typer.Option(help="Only these datasets, by commas.")] = "",
    model: Annotated[str | None, typer.Option("--model", help="Count tokens with this model's tokenizer.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest row, with --model.")] = 4096,
    media: Annotated[bool, typer.Option("--media/--no-media", help="Open every picture and clip.")] = True,
    json_: Json = False,
) -> None:
    """Find every broken row in one pass, with file and line; exit code 5 when there is one.

    \b
      ivdetect data check meta.json --model nano
    """
    from internvl_detect.data.check import run_check
    from internvl_detect.progress import byte_progress

    options: dict = {"choice": choice or None, "open_media": media}
    if model is not None:
        from internvl_detect.train.count_tokens import token_counter

        options |= {"token_counter": token_counter(model), "max_tokens": max_tokens}
    with byte_progress("checking") as progress:
        code = run_check(meta, typer.echo, progress, as_json=json_, **options)
    raise typer.Exit(code)


@data_app.command("samples")
def data_samples(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    pairs: Annotated[int, typer.Option(min=1, max=10_000, help="Pairs to train on.")] = 64,
    seed: int = 0,
) -> None:
    """Make a small training and test set from the photographs in the package, to try the trainer with."""
    from internvl_detect.data.sample_set import make_sample_set

    typer.echo(make_sample_set(folder, pairs=pairs, test_pairs=max(1, pairs // 2), seed=seed))


def main() -> None:
    """The entry point: every error a user can cause ends in its message and exit code, never in a traceback."""
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        code = app(standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # typer turns Ctrl-C into this exit code
            raise click.exceptions.Abort
        sys.stdout.flush()
    except (KeyboardInterrupt, click.exceptions.Abort):
        _say("ivdetect: interrupted; what was written is whole")
        _leave(EXIT_INTERRUPTED)
    except click.exceptions.ClickException as error:
        error.show()
        _leave(error.exit_code)
    except IvdetectError as error:
        _say(f"ivdetect: {error}")
        _leave(error.exit_code)
    except BrokenPipeError:  # the reader of standard output has gone
        _quiet_stdout()
        _leave(1)
    except OSError as error:
        if error.filename is not None:  # of some other file: no one foresaw it
            _bug(error)
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


if __name__ == "__main__":
    main()
