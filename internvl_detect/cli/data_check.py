"""The body of ``ivdetect data check`` for a folder or a manifest: look at every file, say what was found.

``check_rows`` takes rows from anywhere, with the findings of whoever found them. Not here: how rows are found; the
check of a meta JSON (``data.conversations.check``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from internvl_detect.data.datasets.choice import parse_choice, select
from internvl_detect.data.datasets.mmtd import WordSet, with_words
from internvl_detect.data.datasets.readers import find_datasets
from internvl_detect.data.findings import Finding, printable, show
from internvl_detect.data.folders import Note
from internvl_detect.data.manifest import SUFFIXES, ManifestRow
from internvl_detect.data.survey.facts_cache import CACHE_NAME
from internvl_detect.errors import DataError
from internvl_detect.files import alone_in


def is_for_survey(path: Path) -> bool:
    """Whether ``path`` is a folder or, by its name, a manifest; anything else is read as a meta JSON."""
    return path.is_dir() or path.suffix.lower() in SUFFIXES


def rows_of(path: Path, findings: list[Finding], choice: str = "") -> tuple[Iterable[ManifestRow], Path]:
    """(rows, root) of the datasets in a folder, or of a manifest; ``findings`` grows while the rows are read.

    ``choice`` takes some of them (``ps|CASIA2,FR``). Raises DataError where nothing is found, ConfigError.
    """
    root = path if path.is_dir() else path.parent

    def note(finding: Finding) -> None:  # named from the root, as the files are
        findings.append(replace(finding, file=finding.file.removeprefix(printable(str(root)).rstrip("/") + "/")))

    found = find_datasets(path, note=note)
    if not found:
        told = f"; {findings[0].problem}" if findings else ""
        raise DataError(
            f"no dataset found in {show(str(path), 300)}{told}",
            expected="folders called real and fake, a manifest, or a dataset that `ivdetect data list` names",
            do="see docs/datasets.md",
        )
    selection = parse_choice(choice)
    rows = select(found, selection, note=note)
    words = [one for one in with_words(found) if isinstance(one, WordSet)]
    words = [one for one in words if selection.pick_of(one.dataset.name, one.part, one.dataset.domain) is not None]
    return itertools.chain(rows, _without_rows(words, note)), root


def _without_rows(words: Iterable[WordSet], note: Note) -> Iterator[ManifestRow]:
    """Explanations are read for what is wrong with them; their pictures are rows of other sets."""
    for one in words:
        for _ in one.rows(note):
            pass
    yield from ()


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
    from internvl_detect.data.survey.whole import survey
    from internvl_detect.evaluate.shortcut_words import as_findings, compare
    from internvl_detect.progress import progress_bar
    from internvl_detect.report.contact_sheet import contact_sheet
    from internvl_detect.report.survey import survey_report, to_json, to_text, write_survey

    with ExitStack() as held:
        if out is not None:  # before hours of looking
            held.enter_context(alone_in(out))
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
