"""The work on one photograph: its forgeries and their authentic twins written as files, and a record of each.

Runs in any process: everything drawn follows from (seed, photograph's name, number). A file appears whole or not at
all. Not here: the order of photographs, resuming, the manifest (``folder``).

    outcome = forge_photograph(task)
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from internvl_detect.data.findings import show
from internvl_detect.data.forge.finish import Array, Finish
from internvl_detect.data.forge.methods import LEAST_PX, METHODS, complete, forge
from internvl_detect.data.forge.plan import Source, Task, digest
from internvl_detect.data.forge.traces import measure, visible
from internvl_detect.data.forge.words import words_of
from internvl_detect.data.jsonl import atomically
from internvl_detect.errors import ConfigError, DataError, IvdetectError, MediaError, OutputError
from internvl_detect.media.image import open_image

SHRINK = 0.9  # a photograph is made smaller by this or more: it blurs the grid of its own JPEG compression
REMEMBERED = 24  # opened photographs a process keeps, as donors to come


@dataclass
class Outcome:
    """``records`` of what was made; ``problems``: (path, problem, hint) of what was not."""

    source: Source
    records: list[dict[str, Any]] = field(default_factory=list)
    problems: list[tuple[str, str, str]] = field(default_factory=list)


@lru_cache(maxsize=REMEMBERED)
def view(path: str, size_px: int) -> Array:
    """The photograph as uint8 (H, W, 3), its longer side ``size_px``, or 0.9 of its own where that is less.

    Raises MediaError for a file that is no whole picture, or whose shorter side would be under 64 px.
    """
    picture = open_image(path).rgb
    scale = min(size_px / max(picture.size), SHRINK)
    to = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    if min(to) < LEAST_PX:
        found = f"{path} is {picture.width}x{picture.height} px, and would be {to[0]}x{to[1]} px here"
        raise MediaError(found, expected=f"a shorter side of {LEAST_PX} px or more")
    return np.asarray(picture.resize(to, Image.Resampling.LANCZOS, reducing_gap=2.0))


def forge_photograph(task: Task) -> Outcome:
    """Make and write all forgeries of one photograph. What is wrong with it, or with a donor, is in the outcome.

    Raises OutputError when nothing can be written, ConfigError when a method lacks what it needs.
    """
    outcome = Outcome(task.source)
    for number in range(task.settings.per_photo):
        try:
            outcome.records.append(_make(task, number))
        except (ConfigError, OutputError, ImportError):
            raise
        except MediaError as error:  # the photograph itself: there is nothing more to be made of it
            outcome.problems.append(why(task.source.path, error))
            break
        except Exception as error:  # noqa: BLE001 - one strange picture must not end a run of days
            outcome.problems.append(why(task.source.path, error, f"forgery {number}: "))
    return outcome


def _make(task: Task, number: int) -> dict[str, Any]:
    source, settings = task.source, task.settings
    seed = digest(settings.seed, source.name, number)
    rng = np.random.default_rng(np.frombuffer(seed, np.uint32))
    finish = Finish.draw(rng)
    method = draw_method(task, rng)
    real = view(source.path, settings.size_px)
    donor = donor_source = None
    if METHODS[method].donor:
        donor_source, donor = open_donor(task, rng)
    fake, mask, record = forge(real, method, rng, donor=donor, rebuild=settings.rebuild, kinds=settings.kinds)
    about = METHODS[method]
    finished = None if about.whole else finish.apply_mask(mask)
    files = {"authentic": finish.apply(real), "forged": finish.apply(fake)}
    measured = measure(_decoded(files["authentic"]), _decoded(files["forged"]), finished)
    facts = complete(method, mask if finished is None else finished, {})
    record = {**record, **facts, "measured": measured, "traces": visible(measured, record)}
    stem = f"{digest(source.name).hex()[:16]}_{number:03d}"
    made = {
        "name": source.name,
        "number": number,
        "kind": "image",
        "path": f"image/{stem}_{method}.jpg",
        "mask": "" if finished is None else f"mask/{stem}_{method}.png",
        "authentic": f"image/{stem}_authentic.jpg",
        "split": source.split,
        "root": source.root,
        "donor": donor_source.name if donor_source else "",
        **record,
        "finish": finish.to_dict(),
        "words": words_of(record, rng),
        "authentic_words": words_of({"method": "none"}, rng),
    }
    out = Path(settings.out)
    if finished is not None:
        write(out / made["mask"], mask_png(finished))
    write(out / made["authentic"], files["authentic"])
    write(out / made["path"], files["forged"])
    return made


def draw_method(task: Task, rng: np.random.Generator) -> str:
    """One of the methods that this photograph allows; a face is swapped in half of the cases or more.

    Raises DataError when none is left: all of them need a donor and there is no other photograph in the split.
    """
    fit = [m for m in task.settings.methods if task.donors or not METHODS[m].donor]
    if task.source.kind != "face":
        fit = [m for m in fit if m != "face_swap"]
    if not fit:
        found = (
            f"no method for it: there is no other {'face' if task.source.kind == 'face' else 'photograph'} in its split"
        )
        raise DataError(f"{found}, {task.source.split}", do="give more photographs, or a method without a donor")
    weights = np.array([max(1, len(fit) - 1) if m == "face_swap" else 1 for m in fit], float)
    return str(rng.choice(fit, p=weights / weights.sum()))


def open_donor(task: Task, rng: np.random.Generator) -> tuple[Source, Array]:
    """The first of the donors, in a drawn order, that can be opened; the others are told when their own turn comes."""
    for i in rng.permutation(len(task.donors)):
        try:
            return task.donors[i], view(task.donors[i].path, task.settings.size_px)
        except MediaError:
            continue
    raise DataError("none of its donors could be opened", do="see what is said about the other photographs")


def write(path: Path, data: bytes) -> None:
    """The file appears whole or not at all. Raises OutputError."""
    with atomically(path) as file:
        file.write(data)


def mask_png(mask: Array) -> bytes:
    """The boolean (H, W) mask as an 8-bit grey PNG of 0 and 255."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    return file.getvalue()


def _decoded(jpeg: bytes) -> Array:
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
        return np.asarray(picture.convert("RGB"))


def why(path: str, error: Exception, where: str = "") -> tuple[str, str, str]:
    """(path, problem, hint) of an error met with a file."""
    if isinstance(error, IvdetectError):
        return path, where + (error.found.removeprefix(path).strip(" :") or error.found), error.do or error.expected
    return path, f"{where}{type(error).__name__}: {show(str(error), 120)}", ""
