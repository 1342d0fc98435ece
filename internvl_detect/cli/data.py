"""The commands ``ivdetect data ...``: training and test data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from internvl_detect.cli.data_prepare import data_prepare, data_questions
from internvl_detect.cli.options import Engine, Json, Seed, Workers

data = typer.Typer(help="Training and test data.", no_args_is_help=True, rich_markup_mode=None)
data.command("prepare")(data_prepare)
data.command("questions")(data_questions)


@data.command("check")
def data_check(
    meta: Annotated[Path, typer.Argument(help="Meta JSON of named datasets; or a folder or manifest (CSV, JSONL).")],
    choice: Annotated[str, typer.Option(help="Only these datasets, like 'ps|CASIA2,FR'.")] = "",
    model: Annotated[str | None, typer.Option("--model", help="Count tokens with this model's tokenizer.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest row, with --model.")] = 4096,
    media: Annotated[bool, typer.Option("--media/--no-media", help="Open every picture and clip.")] = True,
    out: Annotated[Path | None, typer.Option(help="Folder or manifest: write check.html and check.json here.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder or manifest: remember facts here, not beside it.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Folder or manifest: processes; 0: as many as cores.")] = 0,
    allow_remote: Annotated[bool, typer.Option(help="Read from object storage where a root is an address.")] = False,
    json_: Json = False,
) -> None:
    """Find every broken row or file in one pass, and what gives labels away; exit code 5 when there are errors.

    \b
      ivdetect data check meta.json --model nano        # conversations, as training reads them
      ivdetect data check pictures/ --out report        # files: broken, copied, shortcuts; with a contact sheet
    """
    from internvl_detect.cli.data_check import check_rows, is_for_survey, rows_of
    from internvl_detect.data.conversations.command import run_check
    from internvl_detect.errors import ConfigError, DataError
    from internvl_detect.progress import byte_progress

    if is_for_survey(meta):
        if model is not None:
            raise ConfigError("--model with a folder or manifest", expected="a meta JSON with it")
        findings: list = []
        rows, root = rows_of(meta, findings, choice)
        survey_options: dict = {"out": out, "as_json": json_, "cache": cache, "workers": workers, "open_media": media}
        raise typer.Exit(check_rows(rows, root, findings, typer.echo, **survey_options))
    if out is not None or cache is not None or workers:
        raise ConfigError("--out, --cache and --workers with a meta JSON", expected="a folder or manifest with these")
    if not os.path.lexists(meta):
        raise DataError(f"{meta} is not there", expected="a meta JSON, a folder of datasets, or a manifest")
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
    choice: Annotated[str, typer.Option(help="Only these datasets, like 'ps|CASIA2,FR'.")] = "",
    max_bytes: Annotated[int, typer.Option(min=1, help="Most bytes of media in one shard.")] = 1 << 30,
    max_samples: Annotated[int, typer.Option(min=1, help="Most rows in one shard.")] = 10_000,
    engine: Engine = "processes",
    workers: Workers = 0,
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
        from internvl_detect.data.shards.command import run_shards_to_meta

        raise typer.Exit(run_shards_to_meta(source, out, typer.echo, as_json=json_))
    from internvl_detect.data.shards.command import run_shards

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
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Make a small training and test set from the photographs in the package, to try the trainer with."""
    from internvl_detect.data.samples.sample_set import make_sample_set

    made = make_sample_set(folder, pairs=pairs, test_pairs=max(1, pairs // 2), seed=seed)
    typer.echo(json.dumps({"meta": str(made)}) if json_ else made)


@data.command("list")
def data_list(
    domain: Annotated[str, typer.Option(help="Only ps, df or aigc.")] = "",
    root: Annotated[Path | None, typer.Option(help="Say which of them this folder holds, and how many files.")] = None,
    json_: Json = False,
) -> None:
    """List the datasets that are known: domain, kind, size, licence.

    \b
      ivdetect data list --domain ps
      ivdetect data list --root dataset/
    """
    from internvl_detect.data.datasets import command

    here = command.count_here(root) if root is not None else None
    typer.echo(json.dumps(command.list_values(domain, here)) if json_ else command.list_text(domain, here))


@data.command("show")
def data_show(
    name: Annotated[str, typer.Argument(help="A dataset, by name or alias.")],
    json_: Json = False,
) -> None:
    """Show all about one dataset: what it holds, how it lies on disk, how to obtain it, its traps.

    \b
      ivdetect data show CASIA2
    """
    from internvl_detect.data.datasets import catalog, command

    if json_:
        typer.echo(json.dumps(command.values_of(catalog.dataset_named(name))))
    else:
        typer.echo(command.show_text(name))


@data.command("forge")
def data_forge(
    photographs: Annotated[
        list[Path] | None, typer.Argument(help="Folders of your photographs, or single ones.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, or one to go on with.")] = ...,  # type: ignore[assignment]
    methods: Annotated[
        str,
        typer.Option(help="By commas; default: those that need nothing more, and what --faces, --autoencoder allow."),
    ] = "",
    per_photo: Annotated[int, typer.Option(min=1, max=1000, help="Forgeries of each photograph.")] = 2,
    seed: Seed = 0,
    faces: Annotated[list[Path] | None, typer.Option(help="Photographs of one aligned face each.")] = None,
    autoencoder: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="ENCODER DECODER", help="Two safetensors files.")
    ] = None,
    clips: Annotated[list[Path] | None, typer.Option(help="Clips, each to get an edited stretch.")] = None,
    size: Annotated[int, typer.Option(min=128, max=8192, help="Longer side, px.")] = 512,
    workers: Workers = 0,
    engine: Engine = "processes",
    json_: Json = False,
) -> None:
    """Make forgeries of your own photographs: pictures, exact masks, authentic twins, words and a manifest.

    \b
      ivdetect data forge photographs/ --out forged --per-photo 4
      ivdetect data forge photographs/ --out forged --methods splice,removal --faces portraits/ --clips clips/
    """
    from internvl_detect.data.forge.command import run_forge
    from internvl_detect.progress import byte_progress

    rebuild = None
    if autoencoder is not None:
        from internvl_detect.train.rebuild import Rebuilder

        rebuild = Rebuilder(*map(str, autoencoder)).checked()
    options: dict = {"per_photo": per_photo, "seed": seed, "faces": faces or [], "clips": clips or [], "size": size}
    with byte_progress("forging") as progress:
        options |= {"workers": workers, "engine": engine, "rebuild": rebuild, "progress": progress}
        code = run_forge(photographs or [], out, methods, typer.echo, as_json=json_, **options)
    raise typer.Exit(code)
