# SPDX-License-Identifier: GPL-2.0-only
"""The dashboard and the alert rules use only existing metrics, with existing labels."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from appliance.config.schema.model import Config, Segment
from appliance.hardware.board import parse
from appliance.keeper.client import KeeperLink
from appliance.management.manager import Access
from appliance.paths import Paths
from appliance.supervisor.metrics import collect
from appliance.supervisor.supervisor import Supervisor
from appliance.telemetry.openmetrics import PREFIX, Family, render
from appliance.telemetry.subject import Change

MONITORING = Path(__file__).parents[3] / "console/monitoring"
SUFFIXES = {"gauge": ("",), "counter": ("_total",), "info": ("_info",), "histogram": ("_bucket", "_count", "_sum")}
BOARD = 'name = "test"\n[[port]]\nname = "lan0"\nmac = "02:ff:ff:ff:ff:01"\n'


@pytest.fixture
def families(tmp_path: Path) -> list[Family]:
    """What a supervisor without guests and datapath has; families that need them are there without samples."""
    ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    config = Config(segment=(Segment(name="main", lan="lan0", wan="wan0"),))
    link = KeeperLink(ours)
    made = Supervisor(Paths(tmp_path), link, board=parse(BOARD), board_error="", config=config, config_errors=[]).system
    made.transitions.listen(made.events.transition)
    made.transitions.record(Change.SEGMENT_BYPASSED, "main", "inline", "bypass", "operator")
    assert made.access is None or isinstance(made.access, Access)
    return collect(made)


def series(families: list[Family]) -> set[str]:
    return {f"{PREFIX}{family.name}{suffix}" for family in families for suffix in SUFFIXES[family.kind]}


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return board


def expressions() -> list[str]:
    board = dashboard()
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    found += [item["definition"] for item in board["templating"]["list"] if "definition" in item]
    return [*found, (MONITORING / "alerts.yml").read_text()]


def test_names(families: list[Family]) -> None:
    there = series(families)
    for expression in expressions():
        for name in re.findall(rf"\b{PREFIX}\w+", expression):
            assert name in there, expression


# What Grafana's classic model (its schema "dashboard kind", and the plugins that are part of it) knows of these.
PANELS = {"stat", "timeseries", "state-timeline", "table", "gauge", "bargauge", "row", "text"}
UNITS = {"short", "none", "pps", "bps", "Bps", "bytes", "s", "ms", "percentunit", "percent", "dtdurations"}
CALCS = {"lastNotNull", "last", "mean", "max", "min", "sum", "firstNotNull"}
VARIABLES = {"query", "datasource", "constant", "interval", "textbox", "custom", "adhoc"}
BUILT_IN = {"__rate_interval", "__interval", "__range", "__all"}
COLUMNS = 24


def test_the_dashboard_is_as_grafana_reads_it() -> None:
    """The fields that Grafana's schema demands, with values that it knows; nothing lies over something else."""
    board = dashboard()
    assert board["uid"] == "throughwire"
    assert board["id"] is None if "id" in board else True
    assert isinstance(board["schemaVersion"], int)
    assert 36 <= board["schemaVersion"] <= 41, "classic model, data sources as objects"
    assert board["timezone"] in ("", "utc", "browser")
    assert {"from", "to"} == set(board["time"])
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(numbers) == len(set(numbers)) > 10
    for panel in board["panels"]:
        _check_panel(panel)
    for one, other in combinations((panel["gridPos"] for panel in board["panels"]), 2):
        apart = (
            one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        )  # fmt: skip
        assert apart, (one, other)


def _check_panel(panel: dict[str, Any]) -> None:
    assert panel["type"] in PANELS
    assert panel["title"]
    place = panel["gridPos"]
    assert set(place) == {"x", "y", "w", "h"}
    assert min(place["w"], place["h"]) > 0
    assert 0 <= place["x"] <= place["x"] + place["w"] <= COLUMNS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}
    letters = [target["refId"] for target in panel["targets"]]
    assert len(letters) == len(set(letters)) > 0
    assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    defaults = panel["fieldConfig"]["defaults"]
    assert isinstance(panel["fieldConfig"]["overrides"], list)
    assert defaults.get("unit", "short") in UNITS
    for mapping in defaults.get("mappings", []):
        assert mapping["type"] in ("value", "range", "regex", "special")
        assert isinstance(mapping["options"], dict)
    if "thresholds" in defaults:
        assert defaults["thresholds"]["mode"] in ("absolute", "percentage")
        first, *others = [step["value"] for step in defaults["thresholds"]["steps"]]
        assert first is None, "the first step begins at minus infinity"
        assert all(low < high for low, high in pairwise(others))
    assert set(panel["options"].get("reduceOptions", {}).get("calcs", [])) <= CALCS


def test_the_variables_of_the_dashboard() -> None:
    """What panels refer to is asked for, and asked for is what they refer to."""
    board = dashboard()
    variables = {item["name"]: item for item in board["templating"]["list"]}
    for item in variables.values():
        assert item["type"] in VARIABLES
        assert item.get("refresh", 1) in (0, 1, 2)
    text = json.dumps(board["panels"])
    used = set(re.findall(r"\$(\w+)", text)) | set(re.findall(r"\$\{(\w+)", text))
    assert used - BUILT_IN == set(variables)


def test_labels(families: list[Family]) -> None:
    """A label that an expression or a legend names is one that the series has; of those that have samples here."""
    labels = {f"{PREFIX}{family.name}": {key for found, _ in family.samples for key, _ in found} for family in families}
    seen = 0
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            (name, *_) = re.findall(rf"\b({PREFIX}\w+?)(?:_total|_info|_bucket)?\b", target["expr"])
            if labels.get(name):
                wanted = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))) - {"instance"}
                assert wanted <= labels[name], target
                seen += 1
    assert seen >= 4


PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: prometheus)")


def promtool(*words: str | Path) -> str:
    done = subprocess.run([str(PROMTOOL), *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
def test_rules_and_expressions_are_promql(tmp_path: Path) -> None:
    """The alerts, and every panel's expression as a rule; Grafana's variables stand for something."""
    promtool("check", "rules", MONITORING / "alerts.yml")
    lines = ["groups:", "- name: panels", "  rules:"]
    for number, panel in enumerate(dashboard()["panels"]):
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            lines += [f"  - record: panel:{number}:{target['refId']}", f"    expr: {json.dumps(expression)}"]
    file = tmp_path / "panels.yml"
    file.write_text("\n".join(lines) + "\n")
    assert "SUCCESS" in promtool("check", "rules", file)


FIRING = """
rule_files: [RULES]
evaluation_interval: 15s
tests:
- interval: 15s
  input_series:
  - series: 'throughwire_segment_inline{instance="a:9469", segment="main"}'
    values: '1x4 0x20'
  - series: 'throughwire_guest_restarts_total{instance="a:9469", guest="ips1"}'
    values: '0x20 1+1x10'
  alert_rule_test:
  - {eval_time: 1m, alertname: ThroughwireBypass, exp_alerts: []}
  - {eval_time: 1m20s, alertname: ThroughwireBypass, exp_alerts: []}
  - eval_time: 2m
    alertname: ThroughwireBypass
    exp_alerts:
    - exp_labels: {severity: critical, instance: "a:9469", segment: main}
      exp_annotations:
        summary: "a:9469: segment main is in bypass"
        description: "Traffic passes and nothing is inspected. `show segments` on the appliance says why."
  - {eval_time: 5m30s, alertname: ThroughwireGuestRestarts, exp_alerts: []}
  - eval_time: 7m
    alertname: ThroughwireGuestRestarts
    exp_alerts:
    - exp_labels: {severity: warning, instance: "a:9469", guest: ips1}
      exp_annotations: {summary: "a:9469: guest ips1 restarts again and again"}
"""


@needs_promtool
def test_two_alerts_fire_when_they_should(tmp_path: Path) -> None:
    """Bypass for half a minute, and a guest that restarts again and again; neither before."""
    file = tmp_path / "test.yml"
    file.write_text(FIRING.replace("RULES", str(MONITORING / "alerts.yml")))
    promtool("test", "rules", file)


@needs_promtool
def test_metrics_pass_the_linter(families: list[Family]) -> None:
    """As Prometheus text, which is what promtool reads."""
    text = render(families, openmetrics=False)
    done = subprocess.run([str(PROMTOOL), "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_a_supervisor_without_datapath_serves_is_valid(families: list[Family]) -> None:
    read = {family.name: family for family in text_string_to_metric_families(render(families))}
    assert read["throughwire_segment_inline"].samples[0].value == 0
    assert read["throughwire_transitions"].samples[0].labels == {"kind": "segment", "name": "main", "to": "bypass"}
    assert "throughwire_guest_state" not in read
