"""Every print, table, progress bar and error panel. Data goes to stdout, talk to stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from launcher.errors import LauncherError
from launcher.results.metrics import Metrics, parse_metrics

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from launcher.account.doctor_scene import Finding
    from launcher.data.checking import Checked
    from launcher.data.preparing import Prepared
    from launcher.data.preview import Preview, PreviewRow, Segment
    from launcher.job import JobSummary
    from launcher.recipe import Recipe
    from launcher.results.adapters import Adapter


def data(text: str) -> None:
    """One line of what was asked for."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def data_json(value: Any) -> None:
    data(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def say(text: str) -> None:
    """One line of talk."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def can_ask() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str) -> bool:
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _talk() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_pairs(rows: Iterable[tuple[str, str]]) -> None:
    """A two-column table; plain lines, so that it reads the same in a terminal and in a file."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        data(f"{name:<{width}}  {_visible(str(value))}")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], emit: Callable[[str], None] = data) -> None:
    rows = [[_visible(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        emit("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def print_error(error: LauncherError) -> None:
    """What happened, then what to do next; never a traceback."""
    say(f"error: {_visible(error.message)}")
    if error.hint:
        say(f"  -> {_visible(error.hint)}")


def note(text: str) -> None:
    say(f"note: {_visible(text)}")


def print_jobs(found: Sequence[JobSummary]) -> None:
    if not found:
        say("No jobs yet. `launcher submit --instance local` starts one; `--at aws` asks the account.")
        return
    rows = [(job.name, job.status.value, f"{job.created:%Y-%m-%d %H:%M:%S}", job.place) for job in found]
    print_table(("JOB", "STATUS", "CREATED", "PLACE"), rows)


@contextmanager
def track(name: str, size: int) -> Iterator[Callable[[int], None]]:
    """A progress bar in bytes, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_talk(), transient=True) as bar:
        task = bar.add_task(name, total=size)
        yield lambda count: bar.advance(task, count)


def follow(lines: Iterable[str], emit: Callable[[str], None]) -> None:
    """A log as it comes, by `emit`; on a terminal metric lines move a progress bar instead of being printed."""
    if not sys.stderr.isatty():
        for line in lines:
            emit(line)
        return
    with _training_bar() as bar:
        task = bar.add_task("starting", total=None, numbers="")
        numbers: Metrics = {}
        for line in lines:
            found = parse_metrics(line)
            if found is not None and emit is not data_line_json:
                numbers |= found  # an evaluation line keeps the loss and the speed of the last step on the bar
                _advance(bar, task, numbers)
            elif emit is not data_line_json and sys.stdout.isatty() or emit is say:
                bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                emit(line)


def _training_bar() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(),
        console=_talk(),
    )


def _advance(bar: Progress, task: Any, found: Metrics) -> None:
    step, steps = found.get("step"), found.get("steps")
    if isinstance(step, float) and isinstance(steps, float):
        bar.update(task, description="training", completed=int(step), total=int(steps))
    numbers = metric_words(found)
    if numbers:
        bar.update(task, numbers=numbers)


def metric_words(found: Metrics) -> str:
    """The numbers people decide on."""
    words = []
    for key, word in (("loss", "loss"), ("eval_loss", "eval loss")):
        if isinstance(value := found.get(key), float):
            words.append(f"{word} {value:.3f}")
    if isinstance(speed := found.get("tokens_per_second"), float):
        words.append(f"{speed:,.0f} tok/s")
    if isinstance(eta := found.get("eta_s"), float):
        words.append(f"{int(eta) // 60}:{int(eta) % 60:02d} left")
    return "  ".join(words)


def data_line_json(text: str) -> None:
    """One log line as one JSON line: the text, and its numbers where it has some."""
    data(json.dumps({"message": text, "metrics": parse_metrics(text)}, ensure_ascii=False))


def print_recipe(recipe: Recipe) -> None:
    """As TOML that can be saved and edited: defaults as comments, everything else with where it came from."""
    section = ""
    for key, value, origin in recipe.rows():
        head, _, name = key.rpartition(".")
        if head != section:
            data(f"\n[{head}]")
            section = head
        data(f"# {name} = {value}" if origin == "default" else f"{name} = {value}  # {origin}")


def print_adapter(job: str, adapter: Adapter) -> None:
    data(str(adapter.folder))
    base = "its stand-in base beside it" if adapter.base_model == "base" else f"for {adapter.base_model}"
    say(f"the adapter of {job} ({adapter.bytes:,} bytes, {base}) lies in {adapter.folder}")
    say(f"  -> `launcher logs {job}` shows its log, `launcher list` every job")


def print_prepared(prepared: Prepared) -> None:
    """What each source gave, then what each channel got."""
    rows = []
    for source in prepared.sources:
        why = ", ".join(f"{count:,} {reason}" for reason, count in source.dropped.items())
        rows.append((source.name, f"{source.read:,}", f"{source.kept:,}", why or "nothing"))
    print_table(("SOURCE", "READ", "KEPT", "DROPPED"), rows)
    data("")
    found = [(item.name, f"{item.rows:,}", f"{item.bytes:,}", str(item.path)) for item in prepared.channels]
    print_table(("CHANNEL", "ROWS", "BYTES", "FILE"), found)
    if prepared.bad_sql is not None:
        data(f"\n{prepared.bad_sql:,} rows whose SQL does not parse")
    for text in prepared.notes:
        note(text)


STYLES = {"trained": "bold green", "masked": "dim", "cut": "red strike"}
MARKS = {"trained": ("[[", "]]"), "masked": ("", ""), "cut": ("~~", "~~")}
# what of a row's text would read as a mark, by itself or together with the mark beside it
LIKE_MARKS = {
    "trained": re.compile(r"[\[\]~]{2,}|^\[|[\]\\]$"),
    "masked": re.compile(r"[\[\]~]{2,}|^[\]~]|[\[~\\]$"),
    "cut": re.compile(r"[\[\]~]{2,}|^~|[~\\]$"),
}


def print_preview(preview: Preview, *, ids: bool) -> None:
    """Rows with what is trained in colour; where there are no colours, between marks."""
    from rich.console import Console

    out = Console(highlight=False, soft_wrap=True)
    coloured = out.is_terminal and not out.no_color
    say(
        "trained in green, masked dim, cut off struck through"
        if coloured
        else "[[trained]], masked as it is, ~~cut off~~; with a backslash such signs are the row's own"
    )
    for number, row in enumerate(preview.rows, start=1):
        place = _visible(f"{preview.channel} {row.file}:{row.line}: {_row_words(row, preview)}")
        data(f"{'' if number == 1 else chr(10)}--- {place}")
        if coloured:
            out.print(*[_styled(segment) for segment in row.segments], sep="")
        else:
            data("".join(_marked(segment) for segment in row.segments))
        if ids:
            _print_ids(row)


def _row_words(row: PreviewRow, preview: Preview) -> str:
    if row.refused:
        return f"refused: {row.refused}"
    words = f"{len(row.input_ids)} tokens, {row.trained} trained"
    if row.truncated:
        cut = sum(part.tokens for part in row.segments if part.kind == "cut")
        words += f", {cut} cut off at max_length {preview.max_length}"
    return words if row.ends else f"{words}, and its end token is lost"


def _visible(text: str) -> str:
    """Control characters of a row must not reach the terminal."""
    return "".join(
        letter if letter in "\n\t" or letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def _styled(segment: Segment) -> Any:
    from rich.text import Text

    return Text(_visible(segment.text), STYLES[segment.kind])


def _marked(segment: Segment) -> str:
    opening, closing = MARKS[segment.kind]
    text = LIKE_MARKS[segment.kind].sub(lambda found: "".join(f"\\{sign}" for sign in found[0]), segment.text)
    return f"{opening}{_visible(text)}{closing}"


def _print_ids(row: PreviewRow) -> None:
    rows = [
        (str(place), str(token), "-" if label < 0 else str(label), repr(text))
        for place, (token, label, text) in enumerate(zip(row.input_ids, row.labels, row.tokens, strict=True))
    ]
    print_table(("PLACE", "ID", "LABEL", "TOKEN"), rows)


def print_checked(checked: Checked) -> None:
    """The channels and their tokens; then what is worth a warning. Errors are for the refusal."""
    rows = [
        (item.name, f"{item.rows:,}", item.shape or "-", f"{item.bytes:,}", item.digest[:16])
        for item in checked.report.channels
    ]
    print_table(("CHANNEL", "ROWS", "SHAPE", "BYTES", "DIGEST"), rows)
    for part in checked.tokens:
        data(f"\n{part.channel} in tokens")
        print_pairs(part.rows())
        _print_bars(part.histogram())
    for warning in checked.warnings:
        say(_visible(f"warning: {warning}"))
    if checked.unchecked:
        note(f"not checked: {checked.unchecked}.")


def _print_bars(bins: Sequence[tuple[int, int, int]]) -> None:
    """A histogram of text: the fullest bar is as wide as half a terminal."""
    most = max((count for _, _, count in bins), default=0) or 1
    width = max((len(f"{high - 1:,}") for _, high, _ in bins), default=1)
    for low, high, count in bins:
        bar = "#" * max(round(40 * count / most), int(count > 0))
        data(f"{low:>{width},}-{high - 1:<{width},} {bar:<40} {count:,}".rstrip())


def print_findings(findings: Sequence[Finding]) -> None:
    """One line a check, and below a failure its fix."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = {"ok": "ok", "missing": "MISSING", "unknown": "?", "skipped": "-", "broken": "BROKEN"}[finding.state]
        data(f"{mark:<7}  {finding.name:<{width}}  {finding.text}")
        if finding.state in ("missing", "unknown", "broken") and finding.fix:
            data(f"{'':<7}  {'':<{width}}  -> {finding.fix}{' ' if finding.link else ''}{finding.link}")
