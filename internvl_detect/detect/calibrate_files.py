"""``ivdetect calibrate``: judge files of known label (or take judged rows), fit, and store the calibration."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from internvl_detect.detect.inputs import find_media
from internvl_detect.detect.results_file import load_rows
from internvl_detect.errors import ConfigError, DataError, OutputError
from internvl_detect.files import read_text
from internvl_detect.model.calibration import Calibration, calibrate
from internvl_detect.model.embedded import NAME
from internvl_detect.progress import progress_bar
from internvl_detect.verdict import Verdict


def calibrate_files(
    real: Sequence[str],
    fake: Sequence[str],
    model: str,
    adapter: str | None,
    target_error: float,
    batch_size: int,
    frames: int,
    **options: Any,
) -> Calibration:
    """Judge authentic and fake files and fit on their scores; files that cannot be read are left out and counted."""
    from internvl_detect.detect.detector import Detector

    if not real or not fake:
        raise ConfigError("files of one class alone", expected="--real and --fake, or --rows with --manifest")
    if missing := next((p for p in (*real, *fake) if p != "-" and not os.path.lexists(p)), None):
        raise ConfigError(f"{missing} is not there", expected="files or folders of known label")
    named = [(p, 0) for p in find_media(real)] + [(p, 1) for p in find_media(fake)]
    if twice := {p for p, y in named if y == 0} & {p for p, y in named if y == 1}:
        raise ConfigError(f"{sorted(twice)[0]} is given as real and as fake", expected="one label a file")
    detector = Detector.from_pretrained(model, adapter, provenance=False, **options)
    scores: list[float] = []
    labels: list[int] = []
    with progress_bar("judging", len(named)) as step:
        rows = detector.detect_many([p for p, _ in named], batch_size=batch_size, frames=frames)
        for (_, label), row in zip(named, rows, strict=True):
            step(1)
            if isinstance(row, Verdict):
                scores.append(row.score)
                labels.append(label)
    return _fit(scores, labels, target_error, f"{len(scores)} of {len(named)} files", detector.loaded.name)


def calibrate_rows(rows: Path, manifest: Path | None, target_error: float) -> Calibration:
    """Fit on rows of ``ivdetect detect --out`` and the labels that a manifest gives their paths."""
    from internvl_detect.data.manifest import read_manifest

    if manifest is None:
        raise ConfigError("--rows without --manifest", expected="a CSV or JSONL with path and label")
    labels = {}
    for row in read_manifest(manifest):
        for key in (row.path, str(manifest.parent / row.path)):
            labels[key] = 0 if row.label == "real" else 1
    judged = [row for row in load_rows(rows) if isinstance(row, Verdict)]
    known = [(row.score, labels[row.path]) for row in judged if row.path in labels]
    if not known:
        raise DataError(
            f"no path of {rows} is in {manifest}", expected="the same paths in both", do="judge the manifest's files"
        )
    models = {row.model for row in judged if row.path in labels}
    if len(models) > 1:
        raise DataError(f"the rows are of several models ({', '.join(sorted(models))})", expected="those of one model")
    about = f"{len(known)} rows of {rows.name}"
    return _fit([s for s, _ in known], [y for _, y in known], target_error, about, models.pop())


def store(calibration: Calibration, out: Path | None, model: str, adapter: str | None) -> Path:
    """Write to ``out``, or into the settings beside the adapter (or base) that was judged; gives the file's path."""
    from internvl_detect.model.settings import FILE, AdapterSettings, adapter_label

    try:
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(calibration.to_dict(), indent=2) + "\n", "utf-8")
            return out
        folder = Path(adapter or model)
        if model == NAME and adapter is None:
            raise ConfigError("the embedded model's files are not changed", expected="--out FILE", do="add --out FILE")
        if not (folder / FILE).is_file():
            raise ConfigError(
                f"{folder} has no {FILE}", expected="an adapter of this program, or --out FILE", do="add --out FILE"
            )
        label = adapter_label(folder)
        if adapter is not None and not calibration.model.endswith(f"+{label}"):
            raise ConfigError(
                f"these scores are of {calibration.model}",
                expected=f"scores of the adapter {label}",
                do="judge the files with it, or add --out FILE",
            )
        settings = dataclasses.replace(AdapterSettings.read(folder), calibration=calibration.to_dict())
        settings.write(folder)
        return folder / FILE
    except OSError as error:
        raise OutputError(f"the calibration could not be written ({error})", do="choose another --out") from error


def read_calibration(path: Path) -> Calibration:
    """From a file that ``store`` wrote; raises ConfigError for anything else."""
    text = read_text(path, what="calibration", max_bytes=2**20)
    try:
        stored = json.loads(text)
        if stored is None:
            raise ValueError("null")
        return Calibration.from_dict(stored)
    except (ValueError, TypeError, OverflowError, RecursionError, DataError) as error:
        raise ConfigError(
            f"{path} is no calibration ({error})", expected="a file from 'ivdetect calibrate --out'"
        ) from error


def _fit(scores: list[float], labels: list[int], target_error: float, about: str, model: str) -> Calibration:
    fitted = calibrate(scores, labels, target_error, fitted_on=about)
    if not fitted.fitted:
        raise DataError(fitted.note, expected="about 50 of each class", do="give more files")
    return dataclasses.replace(fitted, model=model)


def in_words(fitted: Calibration) -> str:
    """What a calibration means, for people."""
    lines = [
        f"fitted on {fitted.n_real} real and {fitted.n_fake} fake files: probability = "
        f"sigmoid({fitted.a:.3f} x log odds {fitted.b:+.3f})",
        f"authentic below {fitted.low:.3f}, fake above {fitted.high:.3f}, unsure between "
        f"(each side wrong on at most {fitted.target_error:.0%} of these files)",
    ]
    return "\n".join([*lines, f"note: {fitted.note}"] if fitted.note else lines)
