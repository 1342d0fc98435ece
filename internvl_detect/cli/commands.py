"""The commands beside ``data``: detect, provenance, report, train, convert, merge, calibrate, doctor."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from internvl_detect.cli.options import (
    Adapter,
    Backend,
    BatchSize,
    Device,
    Dtype,
    Frames,
    Json,
    MaskAdapter,
    MaxTiles,
    Model,
    RayWorkers,
    ScanEngine,
    ServedModel,
    Server,
    Tagger,
    Timeout,
    TokenEnv,
    Trust,
    Url,
)
from internvl_detect.questions import WORD_TOKENS

commands = typer.Typer()


@commands.command()
def detect(
    files: Annotated[
        list[str] | None, typer.Argument(help="Pictures, clips, folders, or - for paths on standard input.")
    ] = None,
    model: Model = "nano",
    adapter: Adapter = None,
    tagger: Tagger = "auto",
    mask_adapter: MaskAdapter = None,
    explain: Annotated[bool, typer.Option("--explain", "-e", help="Add the model's words.")] = False,
    language: Annotated[str | None, typer.Option(help="Language of the words, such as German.")] = None,
    max_words: Annotated[int, typer.Option(min=1, max=4096, help="Most tokens of the words.")] = WORD_TOKENS,
    regions: Annotated[
        bool, typer.Option("--regions", help="Ask about every tile alone; say which look fake.")
    ] = False,
    question: Annotated[str | None, typer.Option(help="Ask this instead; yes must mean fake.")] = None,
    questions: Annotated[
        Path | None, typer.Option(help="A question file (image, text); --explain answers each row's own text.")
    ] = None,
    image_root: Annotated[Path | None, typer.Option(help="Folder of its paths; default: the file's own.")] = None,
    json_: Json = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write one JSON line a file here.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out: what has a verdict is left out.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a self-contained HTML report here.")] = None,
    mask: Annotated[
        bool | None, typer.Option("--mask/--no-mask", help="Draw where; default: for --masks and --report.")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Write mask, probability and overlay PNGs here.")] = None,
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
    no_provenance: Annotated[
        bool, typer.Option("--no-provenance", help="Leave out what the file says of its own origin.")
    ] = False,
    trust: Trust = None,
    backend: Backend = "local",
    url: Url = None,
    served_model: ServedModel = None,
    server: Server = None,
    token_env: TokenEnv = None,
    timeout: Timeout = 300,
    engine: ScanEngine = "local",
    ray_workers: RayWorkers = 0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show notes, timings and frames.")] = False,
) -> None:
    """Judge pictures and clips: score, decision, kind, and words and a mask when asked for.

    \b
      ivdetect detect photo.jpg --explain
      ivdetect detect photo.jpg --explain --language German --masks masks/
      ivdetect detect folder/ --out results.jsonl --resume --report report.html
      find . -name '*.jpg' | ivdetect detect - --json
      ivdetect detect --questions test.jsonl --explain --fakeshield --out answers.jsonl
      ivdetect detect folder/ --backend openai --url http://gpu:8000/v1 --adapter runs/mine/adapter --out results.jsonl
      ivdetect detect folder/ --engine ray --out results.parquet
    """
    from internvl_detect.detect.command import DetectCommand
    from internvl_detect.detect.engines import Where
    from internvl_detect.media.provenance import read_anchors

    where = Where(backend, engine, url, served_model, server, token_env, timeout, ray_workers)

    command = DetectCommand(
        explain=explain,
        regions=regions,
        frames=frames,
        batch_size=batch_size,
        workers=workers,
        as_json=json_,
        out=out,
        resume=resume,
        report=report,
        masks=masks,
        mask=mask,
        language=language,
        fakeshield=fakeshield,
        calibration=calibration,
        verbose=verbose,
        questions=questions,
        image_root=image_root,
        where=where,
    )
    options: dict[str, Any] = {"dtype": dtype, "device": device, "attn": attn, "quantize": quantize}
    options |= {"max_tiles": max_tiles, "tile_mode": tile_mode, "question": question, "word_tokens": max_words}
    options |= {"provenance": not no_provenance, "trust": read_anchors(trust), "tagger": tagger}
    options |= {"mask_adapter": mask_adapter}
    raise typer.Exit(command.run(files or [], model, adapter, **options))


@commands.command()
def provenance(
    files: Annotated[list[str], typer.Argument(help="Pictures, clips, folders, or - for paths on standard input.")],
    json_: Json = False,
    ela: Annotated[Path | None, typer.Option(help="Write the error level picture (PNG) of one picture here.")] = None,
    trust: Trust = None,
) -> None:
    """What files say of their own origin: signed records, metadata, generators' texts, JPEG history. Needs no model.

    \b
      ivdetect provenance photo.jpg clip.mp4
      ivdetect provenance photo.jpg --json --ela error_level.png
    """
    from internvl_detect.detect.provenance_command import run

    raise typer.Exit(run(files, as_json=json_, ela=ela, trust=trust))


@commands.command()
def report(
    rows: Annotated[Path, typer.Argument(help="Results: the file of 'ivdetect detect --out'.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Name in .html or .md, or a folder; default: ROWS.html.")
    ] = None,
    each: Annotated[bool, typer.Option("--each", help="Into a folder: also a page for every file.")] = False,
    masks: Annotated[Path | None, typer.Option(help="The folder of 'ivdetect detect --masks': show them.")] = None,
) -> None:
    """Make a report of stored results. Pictures are shown where they can still be read.

    \b
      ivdetect report results.jsonl --out report.html
      ivdetect report results.jsonl --out report/     # index.html with a sortable table, report.json, report.md
    """
    from internvl_detect.detect.results_file import load_rows
    from internvl_detect.report.command import write
    from internvl_detect.report.overlay import stored_layers

    loaded = list(load_rows(rows))
    layers = stored_layers(loaded, masks) if masks else None
    typer.echo(write(loaded, out or rows.with_suffix(".html"), each=each, layers=layers))


@commands.command()
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


@commands.command()
def convert(
    source: Annotated[Path, typer.Argument(help="An InternVL2 folder as downloaded, or with LoRA layers inside.")],
    destination: Annotated[Path, typer.Argument(help="The folder to write.")],
    dtype: Annotated[str, typer.Option(help="auto keeps the stored type.")] = "auto",
) -> None:
    """Write a model in transformers' own format, which opens without this package and without remote code."""
    from internvl_detect.model.checkpoint import convert as run

    typer.echo(run(source, destination, dtype=dtype))


@commands.command()
def merge(
    base: Annotated[str, typer.Argument(help="Model folder, or nano.")],
    adapter: Annotated[Path, typer.Argument(help="Adapter folder: PEFT, or the original code's.")],
    destination: Annotated[Path, typer.Argument(help="The folder to write.")],
) -> None:
    """Write base and adapter as one model, in transformers' own format."""
    from internvl_detect.model.adapter import merge as run

    typer.echo(run(base, adapter, destination))


@commands.command()
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


@commands.command()
def doctor(
    model: Model = "nano",
    adapter: Adapter = None,
    json_: Json = False,
) -> None:
    """Check this machine: versions, devices, decoders, and that the model loads and answers."""
    from internvl_detect.doctor import examine

    raise typer.Exit(examine(model, adapter, as_json=json_))
