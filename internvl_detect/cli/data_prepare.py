"""``ivdetect data prepare`` and ``data questions``: their options. What they do is ``data.prepare.command``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from internvl_detect.cli.options import Engine, Json, Seed, Workers


def data_prepare(
    source: Annotated[Path, typer.Argument(help="A folder of datasets, or a manifest (CSV, JSONL).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, or one of an earlier preparation.")],
    choice: Annotated[str, typer.Option(help="What to train on, like 'ps|CASIA2,FR'; default: all.")] = "",
    val_choice: Annotated[str, typer.Option(help="What to validate on, like 'ps|CASIA1+'.")] = "",
    selection: Annotated[
        Path | None, typer.Option(help="Instead of --choice: a YAML file of choices, weights and caps.")
    ] = None,
    split: Annotated[str, typer.Option(help="Shares, by source, for sets without a split of their own.")] = (
        "train=0.8,val=0.1,test=0.1"
    ),
    questions: Annotated[
        list[str] | None, typer.Option(help="verdict, explain, mask, by commas; NAME=mask for one set. Several times.")
    ] = None,
    video: Annotated[str, typer.Option(help="clips, or frames: pictures of each clip.")] = "clips",
    frames: Annotated[int, typer.Option(min=1, max=512, help="Frames of a clip.")] = 8,
    frame_format: Annotated[str, typer.Option(help="png or jpg.")] = "png",
    clip_seconds: Annotated[float, typer.Option(min=0, help="Longer clips are cut into stretches; 0: never.")] = 30,
    seed: Seed = 0,
    engine: Engine = "processes",
    workers: Workers = 0,
    json_: Json = False,
) -> None:
    """Make training data of datasets: split by source, asked questions, as meta JSON and JSONL.

    \b
      ivdetect data prepare dataset --out sets --choice "ps|CASIA2,FR" --val-choice "ps|CASIA1+"
      ivdetect data prepare manifest.csv --out sets --questions verdict,mask
    """
    from internvl_detect.data.prepare.asking import parse_questions
    from internvl_detect.data.prepare.command import Wanted, prepare_source
    from internvl_detect.data.prepare.splits import parse_split
    from internvl_detect.data.prepare.training_set import PrepareOptions
    from internvl_detect.progress import progress_bar

    options = PrepareOptions(
        questions=parse_questions(questions or []),
        split=parse_split(split),
        video=video,
        frames=frames,
        frame_format=frame_format,
        clip_s=clip_seconds,
        seed=seed,
        engine=engine,
        workers=workers,
    )
    with progress_bar("preparing", None) as progress:
        wanted = Wanted(choice, val_choice, selection)
        done = prepare_source(source, out, wanted, options, progress=progress)
    typer.echo(json.dumps(done.to_dict()) if json_ else done.format_text())


def data_questions(
    folders: Annotated[list[Path], typer.Argument(help="Folders of pictures and clips.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The question file to write (JSONL).")],
    mask_root: Annotated[Path | None, typer.Option(help="A folder with masks, named like the pictures.")] = None,
    tag: Annotated[str, typer.Option(help="A domain tag, whose sentence precedes the question.")] = "",
    json_: Json = False,
) -> None:
    """Write a question file for testing: {"image", "text"} for each picture, as FakeShield's test takes it.

    \b
      ivdetect data questions dataset/photoshop/CASIAv1+_Tp/image --out test.jsonl
    """
    from internvl_detect.data.prepare.question_files import write_questions

    count = write_questions(
        out, folders, tag=tag, mask_root=mask_root, note=lambda finding: typer.echo(finding.format(), err=True)
    )
    typer.echo(json.dumps({"file": str(out), "rows": count}) if json_ else f"{count} questions: {out}")
