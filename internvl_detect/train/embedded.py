"""From a folder of photographs to the weights that the package ships: one command, stage by stage.

    python -m internvl_detect.train.embedded --photographs DIR --faces DIR --generated DIR --out runs/embedded

    OUT/stages.json   the settings, and the seconds of every stage that is done
    OUT/material      decoders and forged sets        OUT/rows       conversations, with the tagger's guesses
    OUT/tagger        the tagger's run                OUT/semantic   that of its semantic branch
    OUT/nano_base, OUT/nano_lora   runs of ``ivdetect train``
    OUT/fusion        what the fusion was fitted on   OUT/left_out/NAME   taggers that never saw NAME
    OUT/embedded      nano, nano_lora and tagger: what goes into the package's folder of that name

A stage that is done is passed over; one that was killed goes on where it was, and its seconds are those of the attempt
that ended it. Photographs and generators are the sub-folders of what is given, each a source. Not here: the stages
(``embedded_stages``), model cards.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from internvl_detect.data.jsonl import atomically
from internvl_detect.errors import ConfigError, IvdetectError
from internvl_detect.files import alone_in
from internvl_detect.model.device import device_of
from internvl_detect.train.embedded_stages import RECIPES, USED, Build, stages
from internvl_detect.train.run_folder import read_json

STAGES = "stages.json"


def rebuild(build: Build) -> dict[str, Any]:
    """Every stage that is not done yet; returns what stages.json holds.

    Raises ConfigError for a folder begun with other settings, and what the stages raise.
    """
    build.check()
    with alone_in(build.out):
        said = _open(build)
        for name, work in stages(build).items():
            about = said["stages"].setdefault(name, {"attempts": 0})
            if "seconds" in about:
                print(f"{name}: done before, in {about['seconds']} s", flush=True)
                continue
            about["attempts"] += 1
            _write(build, said)
            print(f"== {name}", flush=True)
            began = time.monotonic()
            work()
            about["seconds"] = round(time.monotonic() - began, 1)
            said["seconds"] = round(sum(one.get("seconds", 0) for one in said["stages"].values()), 1)
            _write(build, said)
            print(f"== {name}: {about['seconds']} s", flush=True)
    return said


def _open(build: Build) -> dict[str, Any]:
    said, now = read_json(build.out / STAGES), build.settings()
    before = said.get("settings", now)
    if other := sorted(key for key in {*before, *now} if before.get(key) != now.get(key)):
        raise ConfigError(
            f"{build.out} was begun with another {other[0]}: {before.get(other[0])!r}, now {now.get(other[0])!r}",
            do="give the settings of before, or choose another folder",
        )
    return {"settings": now, "stages": said.get("stages", {}), "seconds": said.get("seconds", 0.0)}


def _write(build: Build, said: Mapping[str, Any]) -> None:
    with atomically(build.out / STAGES) as file:
        file.write((json.dumps(said, indent=1) + "\n").encode())


def parsed(argv: Sequence[str] | None = None) -> Build:
    """The settings of a command line; see the docstring of the file."""
    default = {f.name: f.default for f in dataclasses.fields(Build)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--photographs", type=Path, required=True, help="folder; its sub-folders are sources")
    parser.add_argument("--faces", type=Path, help="folder of aligned faces, likewise")
    parser.add_argument("--generated", type=Path, help="folder whose sub-folders are generators")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--given", type=Path, nargs=2, metavar=("ENCODER", "DECODER"), help="one decoder more")
    parser.add_argument("--kinds", nargs="+", default=default["kinds"], help="decoders to train, like nearest8ka")
    parser.add_argument("--seconds", type=float, default=default["seconds"], help="training time of each decoder")
    parser.add_argument("--share", type=float, default=default["share"], help="of the photographs, for each decoder")
    parser.add_argument("--rows-share", type=float, default=default["rows_share"], help="of all pictures, for nano")
    parser.add_argument("--size", type=int, default=default["size"], help="longer side of what is forged, in px")
    parser.add_argument("--tagger-steps", type=int, help="instead of the recipe's")
    parser.add_argument("--tagger-start", type=Path, help="a tagger's folder to go on from")
    parser.add_argument("--semantic-start", type=Path, help="EfficientNet-Lite0's weights, for the tagger's branch")
    parser.add_argument("--nano-epochs", type=float, help="instead of the recipes'")
    parser.add_argument("--start", default=default["start"], help="nano: go on from the embedded base; or fresh")
    parser.add_argument("--left-out", nargs="*", default=(), help="sources to leave out in turn: measured, not shipped")
    parser.add_argument("--calibrate-real", type=Path, help="folder of sources that nothing is trained on, likewise")
    parser.add_argument("--calibrate-generated", type=Path, help="folder of generators that nothing is trained on")
    parser.add_argument("--target-error", type=float, default=default["target_error"], help="of decided files")
    parser.add_argument("--recipes", type=Path, default=RECIPES, help=f"folder of {', '.join(USED)}")
    parser.add_argument("--workers", type=int, default=0, help="processes that forge; 0: the cores there are")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in vars(parser.parse_args(argv)).items()
    }
    return Build(**values | {"device": str(device_of(values["device"]))})


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes are those of the errors."""
    try:
        said = rebuild(parsed(argv))
    except IvdetectError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(said["stages"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
