# SPDX-License-Identifier: GPL-2.0-only
"""Metrics as text: OpenMetrics 1.0, or the older Prometheus format for clients that do not request it. Pure.

The format: https://prometheus.io/docs/specs/om/open_metrics_spec/. All samples of a family are written together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from appliance.telemetry.histogram import Histogram

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "throughwire_"

Kind = Literal["gauge", "counter", "info", "histogram"]
Labels = tuple[tuple[str, str], ...]


@dataclass
class Family:
    """One metric: its name without prefix and suffix, and its samples. The name must end with `unit`."""

    name: str
    kind: Kind
    help: str
    unit: str = ""
    samples: list[tuple[Labels, float | Histogram]] = field(default_factory=list)

    def add(self, value: float | Histogram | None, **labels: object) -> None:
        """Add one sample; None is skipped."""
        if value is not None:
            self.samples.append((tuple((key, str(text)) for key, text in labels.items()), value))

    def states(self, state: str, states: Iterable[str], **labels: object) -> None:
        """Add one sample for each possible state: 1 for the current one, 0 for the others."""
        for each in states:
            self.add(1 if each == state else 0, **labels, state=each)


def render(families: Iterable[Family], openmetrics: bool = True) -> str:
    """The whole text."""
    lines: list[str] = []
    for family in families:
        if family.samples:
            lines += _family(family, openmetrics)
    if openmetrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def wants_openmetrics(accept: str) -> bool:
    """Whether a client's Accept header asks for OpenMetrics."""
    return "application/openmetrics-text" in accept


def _family(family: Family, openmetrics: bool) -> list[str]:
    name = PREFIX + family.name
    suffix = {"counter": "_total", "info": "_info"}.get(family.kind, "")
    title = name if openmetrics else name + suffix
    kind = "gauge" if family.kind == "info" and not openmetrics else family.kind
    lines = [f"# TYPE {title} {kind}"]
    if openmetrics and family.unit:
        lines.append(f"# UNIT {title} {family.unit}")
    lines.append(f"# HELP {title} {_help(family.help, openmetrics)}")
    for labels, value in family.samples:
        if isinstance(value, Histogram):
            lines += _histogram(name, labels, value)
        else:
            lines.append(f"{name}{suffix}{_labels(labels)} {_number(value)}")
    return lines


def _histogram(name: str, labels: Labels, value: Histogram) -> list[str]:
    lines, seen = [], 0
    for bound, count in zip((*value.bounds, math.inf), value.counts, strict=True):
        seen += count
        lines.append(f"{name}_bucket{_labels((*labels, ('le', _bound(bound))))} {seen}")
    return [*lines, f"{name}_count{_labels(labels)} {seen}", f"{name}_sum{_labels(labels)} {_number(value.total)}"]


def _bound(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else repr(float(bound))


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{key}="{_escape(text)}"' for key, text in labels) + "}" if labels else ""


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _help(text: str, openmetrics: bool) -> str:
    return _escape(text) if openmetrics else text.replace("\\", "\\\\").replace("\n", "\\n")
