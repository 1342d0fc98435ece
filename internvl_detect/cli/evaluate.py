"""The command ``ivdetect evaluate``: its options; what it does lies in ``evaluate_run``, which joins the rooms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from internvl_detect.cli.options import Adapter, BatchSize, Device, Dtype, Frames, Json, MaxTiles, Tagger
from internvl_detect.questions import WORD_TOKENS


def evaluate(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model folder, nano (embedded), or none: baselines alone.")
    ] = None,
    adapter: Adapter = None,
    tagger: Tagger = "auto",
    data: Annotated[
        str, typer.Option(help="Manifest, folder of datasets, choice like 'ps|CASIA2', selection (YAML), or questions.")
    ] = "",
    root: Annotated[Path | None, typer.Option(help="Folder that paths are named from; of a choice: dataset.")] = None,
    choice: Annotated[str, typer.Option(help="Of a manifest or folder only these datasets.")] = "",
    split: Annotated[str, typer.Option(help="Only the files of this split: train, val or test.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="Most pictures of each class, evenly; 0: all, and clips.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; a killed one goes on.")] = None,
    shard: Annotated[
        str, typer.Option(help="Judge one part only, like 2/8; torchrun's ranks do so by themselves.")
    ] = "",
    predictions: Annotated[
        list[str] | None, typer.Option(help="Grade these rows (JSONL), or NAME=FILE; several are compared.")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="With one --predictions: folder of the masks it drew.")] = None,
    against: Annotated[list[Path] | None, typer.Option(help="Folder of another run to compare with.")] = None,
    baselines: Annotated[str, typer.Option(help="Judge by these too, by commas; docs/baselines.md has them.")] = "",
    fit: Annotated[str, typer.Option(help="Manifest or selection that baselines are fitted on.")] = "",
    no_equalise: Annotated[
        bool, typer.Option("--no-equalise", help="Judge files as they are, not both classes made alike.")
    ] = False,
    side: Annotated[int, typer.Option(min=0, max=4096, help="Side of alike pictures, px; 0: what all have.")] = 0,
    robustness: Annotated[bool, typer.Option("--robustness", help="Measure again at every severity.")] = False,
    faithfulness: Annotated[bool, typer.Option("--faithfulness", help="Measure whether words and masks hold.")] = False,
    probe_limit: Annotated[int, typer.Option(min=1, max=10_000, help="Pictures of each class for these two.")] = 100,
    explain: Annotated[bool, typer.Option("--explain", "-e", help="Ask for words, and grade them.")] = False,
    max_words: Annotated[int, typer.Option(min=1, max=4096, help="Most tokens of the words.")] = WORD_TOKENS,
    css: Annotated[
        str | None, typer.Option(help="Compare words by meaning: offline, or a sentence-transformers folder.")
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="A file from 'ivdetect calibrate --out'.")] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Score from which a file is called fake.")] = 0.5,
    mask_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of masks, from validation; default: the model's.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, max=100_000, help="Bootstrap draws for the intervals.")] = 1000,
    frames: Frames = 8,
    max_tiles: MaxTiles = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    dtype: Dtype = "auto",
    published: Annotated[bool, typer.Option("--published", help="Show what others published, redrawn.")] = False,
    json_: Json = False,
) -> None:
    """Measure a detector: figures with intervals, constant answers beside them, masks, words, clips, slices, a page.

    \b
      ivdetect evaluate --data test.csv --out runs/nano
      ivdetect evaluate --data 'ps|CASIA1+,IMD2020' --model InternVL2-8B --adapter runs/mine/adapter --out runs/mine-ps
      ivdetect evaluate --data test.csv --predictions FakeShield=answers.jsonl --masks masks/ --out runs/fakeshield
      ivdetect evaluate --published
    """
    from internvl_detect.cli import evaluate_run

    if published:
        evaluate_run.show_published(out, as_json=json_)
        return
    judging = {"explain": explain, "frames": frames, "batch_size": batch_size, "max_words": max_words}
    loading = {"tagger": tagger, "max_tiles": max_tiles, "device": device, "dtype": dtype}
    evaluation = evaluate_run.Evaluation(
        model=model,
        adapter=adapter,
        data=data,
        root=root,
        choice=choice,
        split=split,
        limit=limit,
        out=out,
        shard=shard,
        predictions=predictions or [],
        masks=masks,
        against=against or [],
        baselines=[name.strip() for name in baselines.split(",") if name.strip()],
        fit=fit,
        equalise=not no_equalise,
        side=side,
        robustness=robustness,
        faithfulness=faithfulness,
        probe_limit=probe_limit,
        css=css,
        calibration=calibration,
        threshold=threshold,
        mask_threshold=mask_threshold,
        rounds=rounds,
        judging=judging,
        loading=loading,
        as_json=json_,
    )
    raise typer.Exit(evaluation.run())
