"""The commands ``ivdetect data ...``: training and test data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from internvl_detect.cli.options import Json

data = typer.Typer(help="Training and test data.", no_args_is_help=True, rich_markup_mode=None)


@data.command("check")
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


@data.command("samples")
def data_samples(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    pairs: Annotated[int, typer.Option(min=1, max=10_000, help="Pairs to train on.")] = 64,
    seed: int = 0,
) -> None:
    """Make a small training and test set from the photographs in the package, to try the trainer with."""
    from internvl_detect.data.sample_set import make_sample_set

    typer.echo(make_sample_set(folder, pairs=pairs, test_pairs=max(1, pairs // 2), seed=seed))
