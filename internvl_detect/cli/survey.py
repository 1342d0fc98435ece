"""The body of ``ivdetect data check`` for a folder or a manifest: look at every file, say what was found.

``check_rows`` takes rows from anywhere, with the findings of whoever found them. Not here: how rows are found; the
check of a meta JSON (``data.check``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from internvl_detect.data.choice import parse_choice, select
from internvl_detect.data.facts_cache import CACHE_NAME
from internvl_detect.data.findings import Finding
from internvl_detect.data.folders import printable
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.data.readers import find_datasets


def is_for_survey(path: Path) -> bool:
    """Whether ``path`` is a folder or, by its name, a manifest; anything else is read as a meta JSON."""
    return path.is_dir() or path.suffix.lower() in (".csv", ".tsv", ".jsonl")


def rows_of(path: Path, findings: list[Finding], choice: str = "") -> tuple[Iterable[ManifestRow], Path]:
    """(rows, root) of the datasets in a folder, or of a manifest; ``findings`` grows while the rows are read.

    ``choice`` takes some of them (``ps|CASIA2,FR``). Raises DataError where nothing is found, ConfigError.
    """
    root = path if path.is_dir() else path.parent

    def note(finding: Finding) -> None:  # named from the root, as the files are
        findings.append(replace(finding, file=finding.file.removeprefix(printable(str(root)).rstrip("/") + "/")))

    return select(find_datasets(path, note=note), parse_choice(choice), note=note), root


def check_rows(
    rows: Iterable[ManifestRow],
    root: Path,
    findings: Iterable[Finding],
    echo: Callable[[str], None],
    *,
    out: Path | None = None,
    as_json: bool = False,
    cache: Path | None = None,
    workers: int = 0,
    open_media: bool = True,
    seed: int = 0,
) -> int:
    """Surveys the files, measures shortcuts, says and writes what was found; gives the exit code.

    ``out`` is a folder for ``check.html`` and ``check.json``; ``cache`` a file (default: one in ``root``).
    """
    from internvl_detect.data.survey import survey
    from internvl_detect.evaluate.shortcut_words import as_findings, compare
    from internvl_detect.progress import progress_bar
    from internvl_detect.report.contact_sheet import contact_sheet
    from internvl_detect.report.survey import survey_report, to_json, to_text, write_survey

    with progress_bar("looking at files", None) as progress:
        found = survey(
            rows,
            root,
            findings=findings,
            cache=cache or root / CACHE_NAME,
            workers=workers,
            open_media=open_media,
            progress=progress,
        )
    comparisons = compare(found)
    for finding in as_findings(comparisons):
        found.add(finding)
    report = survey_report(found, [one.to_dict() for one in comparisons], root=str(root))
    echo(to_json(report) if as_json else to_text(report))
    if out is not None:
        page = write_survey(report, out, sheet=contact_sheet(found, root, seed=seed))
        if not as_json:
            echo(f"written: {page}")
    return found.exit_code
