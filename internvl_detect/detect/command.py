"""``ivdetect detect``: find the files, judge them, write rows, report and masks as they come."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from internvl_detect.detect.engines import Engine, Where, fits, open_engine
from internvl_detect.detect.inputs import find_media
from internvl_detect.detect.question_rows import Asked, asked_rows
from internvl_detect.detect.results_file import ResultsFile, encode_row, load_rows, open_results
from internvl_detect.errors import EXIT_OK, EXIT_SOME_FAILED, ConfigError
from internvl_detect.progress import progress_bar
from internvl_detect.verdict import Failure, Verdict


@dataclass(frozen=True)
class DetectCommand:
    """What is to be done with each verdict. ``mask`` None: drawn for ``masks`` and ``report``, where that can be."""

    explain: bool = False
    regions: bool = False
    frames: int = 8
    batch_size: int = 8
    workers: int = 2
    as_json: bool = False
    out: Path | None = None
    resume: bool = False
    report: Path | None = None
    masks: Path | None = None
    mask: bool | None = None
    language: str | None = None
    fakeshield: bool = False
    calibration: Path | None = None
    verbose: bool = False
    questions: Path | None = None
    image_root: Path | None = None
    where: Where = field(default_factory=Where)

    def run(self, arguments: Sequence[str], model: str, adapter: str | None, **options: Any) -> int:
        """Judge everything that ``arguments``, or the question file, mean and give the exit code.

        0 when every file has a verdict, 1 when some failed, the first failure's own code when all did.
        """
        if self.language is not None and not self.explain:
            raise ConfigError("--language without --explain", do="add --explain: it is the language of the words")
        if self.resume and self.out is None:
            raise ConfigError("--resume without --out", expected="the file to go on with", do="add --out FILE")
        files = self._files(arguments)
        with contextlib.ExitStack() as stack:
            results = stack.enter_context(open_results(self.out, resume=self.resume)) if self.out else None
            left = [f for f in files if _key(f) not in results.done] if results else files
            if len(left) < len(files):
                _say(f"{len(files) - len(left)} of {len(files)} files have a verdict already")
            if not left:
                return EXIT_OK
            engine = self._engine(model, adapter, options)
            done: list[Verdict | Failure] = []
            codes: list[int] = []
            layers: dict[str, bytes] = {}
            rows = self._handled(self._judged(engine, left), results, done, codes, layers)
            if self.as_json:
                for _, content in rows:
                    sys.stdout.buffer.write(encode_row(content))
                    sys.stdout.flush()
            else:
                from rich.console import Console

                from internvl_detect.report.terminal import print_rows

                print_rows((row for row, _ in rows), Console(), verbose=self.verbose)
            if self.report:
                self._write_report(done, engine, layers)
        return self._end(codes, bool(results and results.done))

    def _files(self, arguments: Sequence[str]) -> Sequence[str | Asked | Failure]:
        if self.questions is None:
            if self.image_root is not None:
                raise ConfigError("--image-root without --questions", do="give the folder itself to judge it")
            return find_media(arguments)
        if arguments:
            raise ConfigError("files are named beside --questions", expected="one or the other")
        return asked_rows(self.questions, self.image_root)

    def _handled(
        self,
        rows: Iterator[tuple[Verdict | Failure, str]],
        results: ResultsFile | None,
        done: list[Verdict | Failure],
        codes: list[int],
        layers: dict[str, bytes],
    ) -> Iterator[tuple[Verdict | Failure, dict[str, Any]]]:
        """The rows as they come, with their JSON form, each stored before it is shown."""
        for row, question in rows:
            codes.append(row.exit_code if isinstance(row, Failure) else EXIT_OK)
            content = self._row(row) | ({"question": question} if question else {})
            if self.masks and isinstance(row, Verdict):
                from internvl_detect.report.overlay import write_masks

                written = write_masks(row, self.masks)
                if self.fakeshield and row.kind == "image":  # what 'evaluate --masks' reads beside the words
                    content["mask"] = written["mask" if row.mask is None else "prob"]
            if results:
                results.write(content)
            if self.report:
                from internvl_detect.report.overlay import layer_of, without_masks

                if layer := layer_of(row):
                    layers[row.path] = layer
                done.append(without_masks(row))
            yield row, content

    def _engine(self, model: str, adapter: str | None, options: dict[str, Any]) -> Engine:
        from internvl_detect.detect.calibrate_files import read_calibration

        if self.where.server is not None and self.questions is not None:
            raise ConfigError("--questions with --server", expected="files or folders")
        calibration = read_calibration(self.calibration) if self.calibration else None
        engine = open_engine(self.where, model, adapter, calibration, options)
        for note in (*engine.notes, fits(calibration, engine, self.where, self.calibration)):
            if note:
                _say(f"{engine.name}: {note}")
        return engine

    def _judged(
        self, engine: Engine, files: Sequence[str | Asked | Failure]
    ) -> Iterator[tuple[Verdict | Failure, str]]:
        """Each row with the question of its file, where a question file gave one."""
        rows_are_shown = not self.as_json and sys.stdout.isatty()  # then they are the progress
        shown = progress_bar("judging", len(files), shown=not rows_are_shown)
        with shown as step, contextlib.ExitStack() as live:
            wants = engine.draws and (self.masks is not None or self.report is not None)
            mask = wants if self.mask is None else self.mask
            tiles = self.regions or (self.masks is not None and not mask)
            options: dict[str, Any] = {"explain": self.explain, "frames": self.frames, "regions": tiles}
            options |= {"mask": mask, "language": self.language}
            if self.explain and rows_are_shown and len(files) == 1 and engine.streams:
                options["tell"] = live.enter_context(_live())
            rows = engine.rows(files, **options, batch_size=self.batch_size, workers=self.workers)
            for at, row in rows:
                live.close()  # the words go, and come again below their verdict
                step(1)
                file = files[at]
                yield row, file.question if isinstance(file, Asked) else ""

    def _row(self, row: Verdict | Failure) -> dict[str, Any]:
        content = row.to_dict()
        if self.fakeshield:
            from internvl_detect.report.words import headline

            said = row.words or headline(row) if isinstance(row, Verdict) else ""
            content |= {"image": row.path, "outputs": said}
        return content

    def _write_report(self, rows: list[Verdict | Failure], engine: Engine, layers: dict[str, bytes]) -> None:
        from internvl_detect.report.command import write
        from internvl_detect.report.overlay import stored_layers

        if self.out:  # with --resume the file holds more than this run judged
            rows = list(load_rows(self.out))
            if self.masks:
                layers = stored_layers(rows, self.masks) | layers
        with progress_bar("writing the report", None):
            written = write(rows, self.report, engine.facts, layers=layers)  # type: ignore[arg-type]
        _say(f"report: {written}")

    def _end(self, codes: list[int], some_before: bool) -> int:
        failed = [code for code in codes if code]
        if failed:
            _say(f"{len(failed)} of {len(codes)} files could not be judged")
        if self.out:
            _say(f"rows: {self.out}")
        if not failed:
            return EXIT_OK
        return failed[0] if len(failed) == len(codes) and not some_before else EXIT_SOME_FAILED


@contextlib.contextmanager
def _live() -> Iterator[Callable[[str], None]]:
    """A line of the terminal that shows words while they come, and is gone at the end."""
    from rich.live import Live
    from rich.text import Text

    from internvl_detect.report.words import visible

    with Live(transient=True, refresh_per_second=12) as shown:
        yield lambda words: shown.update(Text(visible(words)))


def _key(file: str | Asked | Failure) -> str:
    return file if isinstance(file, str) else file.key if isinstance(file, Asked) else file.path


def _say(text: str) -> None:
    print(text, file=sys.stderr)
