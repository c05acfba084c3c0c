# SPDX-License-Identifier: GPL-2.0-only
"""Writes measurements: `build/figures/NAME.json`, with a Markdown table and a plot beside it.

A row is flat; keys end with their unit (`_ms`, `_s`, `_ns`, `_frames`, `_bytes`, `_ratio`).
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from appliance import __version__

Row = dict[str, Any]
FIGURES = Path("build/figures")


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile (`share` 0..1); always a measured value, never interpolated."""
    if not values:
        raise ValueError("no values were measured")
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, math.ceil(len(ranked) * share) - 1))]


def spread(name: str, values: Sequence[float], unit: str = "ms") -> Row:
    """p50, p99 and maximum of one measure as the keys that the figures use."""
    return {
        f"{name}_p50_{unit}": round(statistics.median(values), 3),
        f"{name}_p99_{unit}": round(percentile(values, 0.99), 3),
        f"{name}_max_{unit}": round(max(values), 3),
    }


def say(text: str) -> None:
    """Progress, for display."""
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    """The machine of the measurement, in one line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}"


def table(rows: Iterable[Row]) -> str:
    """Rows as a Markdown table; the first row with a column determines its position."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "NO"
        return f"{value:g}" if isinstance(value, float) else str(value)

    lines = [columns, ["---"] * len(columns), *([cell(row.get(column)) for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write(name: str, rows: list[Row], plot: Callable[[Any], None] | None = None, **more: Any) -> Path:
    """Write JSON, table and, if `plot` draws on the given axes, a picture; returns the path of the JSON."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    document = {"name": name, "version": __version__, "machine": machine(), "when": when, **more, "rows": rows}
    target = FIGURES / f"{name}.json"
    target.write_text(json.dumps(document, indent=1) + "\n")
    target.with_suffix(".md").write_text(f"# {name}\n\n{document['machine']}, {when}\n\n{table(rows)}")
    if plot is not None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(11, 6))
        plot(axes)
        axes.set_title(name)
        figure.tight_layout()
        figure.savefig(target.with_suffix(".png"), dpi=110)
        pyplot.close(figure)
    return target
