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
    allow_remote: Annotated[bool, typer.Option(help="Read from object storage where a root is an address.")] = False,
    json_: Json = False,
) -> None:
    """Find every broken row in one pass, with file and line; exit code 5 when there is one.

    \b
      ivdetect data check meta.json --model nano
    """
    from internvl_detect.data.check import run_check
    from internvl_detect.progress import byte_progress

    options: dict = {"choice": choice or None, "open_media": media, "allow_remote": allow_remote}
    if model is not None:
        from internvl_detect.train.count_tokens import token_counter

        options |= {"token_counter": token_counter(model), "max_tokens": max_tokens}
    with byte_progress("checking") as progress:
        code = run_check(meta, typer.echo, progress, as_json=json_, **options)
    raise typer.Exit(code)


@data.command("shards")
def data_shards(
    source: Annotated[list[str], typer.Argument(help="Meta JSON; or tars of others, to be trained from as they are.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder, or one where this job was begun.")],
    choice: Annotated[str, typer.Option(help="Only these datasets, by commas.")] = "",
    max_bytes: Annotated[int, typer.Option(min=1, help="Media of one shard.")] = 1 << 30,
    max_samples: Annotated[int, typer.Option(min=1, help="Rows of one shard.")] = 10_000,
    engine: Annotated[str, typer.Option(help="processes, or ray (the extra).")] = "processes",
    workers: Annotated[int, typer.Option(min=0, help="0: as many as there are cores.")] = 0,
    strict: Annotated[bool, typer.Option(help="End at the first broken row.")] = False,
    json_: Json = False,
) -> None:
    """Copy a training set into tar shards (WebDataset's convention), or make a training set of others' shards.

    \b
      ivdetect data shards meta.json --out shards
      ivdetect data shards theirs-000.tar theirs-001.tar --out sets/theirs
    """
    from internvl_detect.progress import byte_progress

    if all(name.endswith(".tar") for name in source):
        from internvl_detect.data.shards_in import run_shards_to_meta

        raise typer.Exit(run_shards_to_meta(source, out, typer.echo, as_json=json_))
    from internvl_detect.data.shards import run_shards

    if len(source) > 1:
        raise typer.BadParameter("one meta JSON, or tars alone")
    limits = {"max_bytes": max_bytes, "max_samples": max_samples}
    with byte_progress("writing shards") as progress:
        job = {"choice": choice or None, "engine": engine, "workers": workers, "strict": strict, "progress": progress}
        code = run_shards(source[0], out, typer.echo, as_json=json_, **limits, **job)
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
