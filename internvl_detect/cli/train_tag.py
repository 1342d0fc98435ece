"""The command ``train-tag``: parse, call, print. Not here: the work (``train.tagger_run``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from internvl_detect.cli.options import Device, Json
from internvl_detect.errors import ConfigError


def train_tag(
    manifests: Annotated[
        list[Path], typer.Argument(help="Manifests with splits, as 'ivdetect data forge' writes them.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; the tagger lies in its tagger/.")],
    generated: Annotated[
        list[str] | None, typer.Option(metavar="NAME=DIR", help="Pictures that a generator made.")
    ] = None,
    real: Annotated[list[str] | None, typer.Option(metavar="NAME=DIR", help="Photographs, as they are.")] = None,
    left_out: Annotated[list[str] | None, typer.Option(help="A source that is only measured on.")] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(
            help="A tagger's folder to go on from; nano: the embedded one. Several as FOLDER=SHARE: their mean."
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--config", "-c", help="A YAML recipe; see recipes/tagger.yaml.")
    ] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", "-s", help="key=value, over the recipe.")] = None,
    most: Annotated[int, typer.Option(min=10, help="Pictures looked at for each measurement.")] = 1500,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Train the domain tagger; a killed run goes on with the same command.

    \b
      ivdetect data forge photographs --out forged
      ivdetect train-tag forged/manifest.csv --out runs/tagger --config recipes/tagger.yaml
      ivdetect detect photo.jpg --tagger runs/tagger/tagger
    """
    from internvl_detect.data.manifest import read_manifest
    from internvl_detect.files import read_yaml
    from internvl_detect.train.material import as_they_are, named
    from internvl_detect.train.tag_data import tag_rows
    from internvl_detect.train.tagger_run import recipe_of, run, with_source
    from internvl_detect.train.tagger_start import start_of

    values: dict[str, Any] = dict(read_yaml(recipe)) if recipe else {}
    for text in sets or []:
        _put(values, text)
    how = recipe_of(values)
    rows = [row for path in manifests for row in with_source(tag_rows(read_manifest(path), path.parent), path)]
    rows += as_they_are(named(generated or []), "ai_generated") + as_they_are(named(real or []), "authentic")
    first = start_of(start or [])
    told = (lambda text: typer.echo(text, err=True)) if json_ else typer.echo
    result = run(rows, out, how, left_out=left_out or (), device=device, most=most, start=first, echo=told)
    if not result:  # one of several processes that is not the first
        return
    if json_:
        typer.echo(json.dumps(result))
        return
    for name, part in result["metrics"].items():
        said = ", ".join(f"{key} {value}" for key, value in part["all"].items())
        typer.echo(f"{name}: {said}")
    if result["problems"]:
        typer.echo(
            f"Pictures that could not be looked at: {len(result['problems'])}, the first {result['problems'][0]}"
        )
    typer.echo(f"tagger: {out / 'tagger'}")


def _put(values: dict[str, Any], text: str) -> None:
    """Lays key=value over ``values``; a dot reaches into a section."""
    import yaml

    from internvl_detect.files import YamlLoader

    key, equals, given = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text!r}", expected="key=value")
    try:
        value = yaml.load(given, Loader=YamlLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--set {text!r} cannot be read ({error})", expected="key=value") from None
    section, dot, name = key.strip().partition(".")
    inner = values.setdefault(section, {}) if dot else None
    if isinstance(inner, dict):
        inner[name] = value
    else:
        values[key.strip()] = value
