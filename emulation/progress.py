"""Shows how far a run is: a live table on a terminal; elsewhere (a file, a pipe, a CI log) one line a round."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lamina.coordinator.records.records import RoundRecord
from lamina.models.metrics import ACCURACY

_SHOWN = 12  # rounds in the live table


class ProgressDisplay:
    """Shows a run to a person. Use it as a context manager: what is live ends with it.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._layers, self._rounds, self._judge = 0, 0, ACCURACY
        self._recent: deque[RoundRecord] = deque(maxlen=_SHOWN)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line about what happens now."""
        self._console.print(Text(text, style="dim"), soft_wrap=True)

    def warn(self, text: str) -> None:
        """A line about what went wrong, the run going on."""
        self._console.print(Text(text, style="yellow"), soft_wrap=True)

    def begin(self, layers: int, rounds: int, judge: str = ACCURACY) -> None:
        """Rounds are about to come: ``rounds`` of them, of a model with so many layers that is judged by ``judge``."""
        self._layers, self._rounds, self._judge = layers, rounds, judge
        if self._console.is_terminal:
            self._live = Live(self._view(), console=self._console, auto_refresh=False)
            self._live.start()

    def observe(self, record: RoundRecord) -> None:
        """Show a finished round."""
        self._recent.append(record)
        if self._live:
            self._live.update(self._view(), refresh=True)
        else:
            self._console.print(Text(plain_line(record, self._layers, self._rounds, self._judge)), soft_wrap=True)

    def _view(self) -> RenderableType:
        done = self._recent[-1].round + 1 if self._recent else 0
        bar = ProgressBar(total=self._rounds, completed=done, width=60)
        return Group(rounds_table(list(self._recent), self._layers, self._rounds, self._judge), bar)


def rounds_table(records: list[RoundRecord], layers: int, rounds: int, judge: str = ACCURACY) -> Table:
    """The latest rounds, one a row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("round", judge, "loss", "layers due", "C", "sent", "received", "devices", "time"):
        table.add_column(name, justify="left" if name == "layers due" else "right")
    for record in records:
        table.add_row(
            f"{record.round + 1}/{rounds}",
            _decimal(record.figures.get(judge), 4),
            _decimal(record.loss, 4),
            due_bar(record.due, layers),
            f"{record.c_ratio:.3f}",
            size(record.uplink_bytes),
            size(record.downlink_bytes),
            str(len(record.cohort)),
            f"{record.round_s:.2f} s",
        )
    return table


def plain_line(record: RoundRecord, layers: int, rounds: int, judge: str = ACCURACY) -> str:
    """One round in one line."""
    figure = f"{'held-out loss' if judge == 'loss' else judge} {_decimal(record.figures.get(judge), 4)}"
    return (
        f"round {record.round + 1}/{rounds}  {figure}  loss {_decimal(record.loss, 4)}"
        f"  layers {len(record.due)}/{layers}  C {record.c_ratio:.3f}  sent {size(record.uplink_bytes)}"
        f"  received {size(record.downlink_bytes)}  devices {len(record.cohort)}  {record.round_s:.2f} s"
    )


def due_bar(due: tuple[int, ...], layers: int, width: int = 24) -> Text:
    """A cell a layer, filled where the layer was aggregated; many layers share cells, filled where any of them was."""
    cells = min(layers, width)
    filled = {layer * cells // layers for layer in due}
    bar = Text()
    for cell in range(cells):
        bar.append("■" if cell in filled else "·", style="cyan" if cell in filled else "dim")
    return bar.append(f" {len(due)}/{layers}")


def size(count: int) -> str:
    """Bytes, for a person: ``1.50 MB`` (decimal units)."""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.2f} {unit}"
        amount /= 1000
    return f"{amount:.2f} GB"


def _decimal(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
