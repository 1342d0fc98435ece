"""Verdicts in a terminal: one compact line a file, with details below it when asked for.

    print_rows(detector.detect_many(paths), Console(stderr=True), verbose=True)

Not for machines: those read the JSON. Text from files is printed as text, never as rich's markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from internvl_detect.report import words
from internvl_detect.verdict import Failure, Verdict

_STYLES = {"fake": "bold red", "unsure": "yellow", "authentic": "cyan", words.FAILED: "bold red"}
_SIGNS = {"fake": "▲", "unsure": "?", "authentic": "○", words.FAILED: "✗"}
_PLAIN_SIGNS = {"fake": "!", "unsure": "?", "authentic": "-", words.FAILED: "x"}
_COLUMN = 29  # the longest headline


def print_rows(rows: Iterable[words.Row], console: Console, *, verbose: bool = False) -> dict[str, int]:
    """Print each row as it comes, then the totals and what to know about the model; gives the totals by outcome.

    A file name is shortened at its front where a real terminal is too narrow, and never in a pipe or file.
    """
    counts = dict.fromkeys(words.OUTCOMES, 0)
    notes: dict[str, None] = {}
    uncalibrated = False
    for row in rows:
        counts[words.outcome(row)] += 1
        if isinstance(row, Verdict):
            notes.update(dict.fromkeys(words.model_notes(row)))
            uncalibrated |= not row.calibrated
        print_row(row, console, verbose=verbose)
    if sum(counts.values()) > 1:
        _say(console, Text(words.summary(counts), style="bold"))
    for note in notes:
        _say(console, Text(f"Note: {note}", style="bold yellow"))
    if uncalibrated:
        _say(console, Text("Scores are not calibrated: read them as an order, not as a probability.", style="yellow"))
    return counts


def print_row(row: words.Row, console: Console, *, verbose: bool = False) -> None:
    """One line for one file; with ``verbose`` its details indented below."""
    state = words.outcome(row)
    sign = (_SIGNS if _is_unicode(console) else _PLAIN_SIGNS)[state]
    line = Text.assemble((f"{sign} {words.headline(row):<{_COLUMN}}  ", _STYLES[state]))
    if isinstance(row, Failure):
        line.append(_fitting(row.path, console, cell_len(line.plain)))
        _say(console, line)
        _say(console, Text(f"  {words.visible(row.error)}", style="red"))
        return
    number = words.percent(row.probability) if row.calibrated else words.number(row.score, 2)
    number = "signed" if words.deciding(row) else number
    line.append(f"{number:>8}  ")
    part = row.stretch
    tail = f"  {words.clock(part.start_s)} to {words.clock(part.end_s)}" if part else ""
    line.append(_fitting(row.path, console, cell_len(line.plain) + len(tail)))
    line.append(tail, style="magenta")
    _say(console, line)
    if row.words and not verbose:
        _say(console, Text.assemble((f"  {words.manner(row)}: ", "dim"), f'"{words.visible(row.words)}"'))
    for said in row.reasons.contradictions if row.reasons and not verbose else ():
        _say(console, Text.assemble(("  but:  ", "dim"), (words.visible(said), "yellow")))
    if verbose:
        for name, value in _details(row):
            _say(console, Text.assemble((f"    {name:<11}", "dim"), value))


def _details(verdict: Verdict) -> Iterator[tuple[str, str]]:
    yield "meaning", words.explanation(verdict)
    yield "number", words.number_meaning(verdict)
    score = f"score {words.number(verdict.score)}, probability {words.number(verdict.probability)}"
    yield "", f"{score}, decision {words.visible(verdict.decision)}, kind {words.visible(verdict.label)}"
    if verdict.stretch:
        yield "stretch", words.stretch_words(verdict)
    if verdict.words:
        yield "words", f'"{words.visible(verdict.words)}"'
    yield from ((name.lower().replace("words: ", ""), value) for name, value in words.reason_rows(verdict))
    for said in verdict.reasons.contradictions if verdict.reasons else ():
        yield "but", words.visible(said)
    if verdict.domain_tag:
        yield "first look", words.tag_words(verdict)
    for frame in verdict.frames:
        marked = "" if frame.mask_share is None else f", mask {frame.mask_share:.1%}"
        yield "frame", f"{words.clock(frame.time_s):>8}  {words.number(frame.score, 2)}  number {frame.index}{marked}"
    for region in verdict.regions:
        box = ", ".join(str(v) for v in region.box_xyxy)
        area = words.area_words(region)
        yield "region", f"pixels {box}, score {words.number(region.score, 2)}{', ' + area if area else ''}"
    if verdict.mask_share is not None:
        yield "mask", f"marks {verdict.mask_share:.1%} of the picture"
    for item in verdict.evidence:
        score = "" if item.score is None else f" (score {words.number(item.score, 2)})"
        other = " [points the other way]" if words.disagrees(verdict, item) else ""
        yield "evidence", f"{words.evidence_name(item)}: {words.visible(item.summary)}{score}{other}"
    for note in [*words.model_notes(verdict), *words.file_notes(verdict)]:
        yield "note", note
    if verdict.width and verdict.height:
        yield "size", f"{verdict.width} x {verdict.height} px"
    if verdict.sha256:
        yield "sha256", words.visible(verdict.sha256, 80)
    yield "model", words.visible(verdict.model, 200)
    if verdict.timings:
        yield "seconds", ", ".join(f"{words.visible(k, 40)} {words.number(v, 3)}" for k, v in verdict.timings.items())


def _fitting(path: str, console: Console, taken: int) -> str:
    """The path in what is left of the line, cut at its front: the file's own name matters most."""
    name = words.visible(path, 4000)
    room = max(16, console.width - taken - 1)
    if not console.is_terminal or cell_len(name) <= room:
        return name
    kept = ""
    for char in reversed(name):
        if cell_len(kept) + cell_len(char) >= room:
            break
        kept = char + kept
    return "…" + kept


def _say(console: Console, line: Text) -> None:
    if not _is_unicode(console):
        encoded = line.plain.encode(console.encoding, "backslashreplace").decode(console.encoding)
        line = Text(encoded)
    console.print(line, soft_wrap=True, highlight=False)


def _is_unicode(console: Console) -> bool:
    return console.encoding.lower().replace("-", "").startswith("utf")
