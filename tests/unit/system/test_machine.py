# SPDX-License-Identifier: GPL-2.0-only
"""The machine as the kernel shows it: a board with everything, one with nothing, and the computer of the test."""

from __future__ import annotations

from pathlib import Path

from appliance.system import machine

FILES = {
    "proc/loadavg": "0.50 1.25 2.00 1/234 5678\n",
    "proc/meminfo": "MemTotal: 1000 kB\nMemAvailable:  400 kB\nHugePages_Total:   8\nHugePages_Free:  3\nOdd\n",
    "sys/class/hwmon/hwmon0/name": "coretemp\n",
    "sys/class/hwmon/hwmon0/temp1_input": "41500\n",
    "sys/class/hwmon/hwmon0/temp1_label": "Package id 0\n",
    "sys/class/hwmon/hwmon1/name": "nct6775\n",
    "sys/class/hwmon/hwmon1/fan1_input": "1200\n",
    "sys/class/hwmon/hwmon1/temp2_input": "not there\n",
    "sys/class/dmi/id/product_name": "Default string\n",
    "sys/class/dmi/id/sys_vendor": "Acme\n",
    "sys/class/dmi/id/product_serial": "To Be Filled By O.E.M.\n",
    "sys/firmware/devicetree/base/model": "Acme Board 2\0",
    "sys/firmware/devicetree/base/serial-number": "A1B2\0",
}


def board(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_board_with_everything(tmp_path: Path) -> None:
    root = board(tmp_path, FILES)
    assert machine.load(root) == [0.5, 1.25, 2.0]
    assert machine.memory(root) == {"total": 1024000, "available": 409600, "hugepages": 8, "hugepages_free": 3}
    assert machine.sensors(root) == ({"coretemp Package id 0": 41.5}, {"nct6775 fan1": 1200})
    assert machine.identity(root) == {"vendor": "Acme", "model": "Acme Board 2", "serial": "A1B2"}


def test_a_board_with_nothing(tmp_path: Path) -> None:
    assert machine.load(tmp_path) == []
    assert machine.memory(tmp_path) == {}
    assert machine.identity(tmp_path) == {}
    assert machine.sensors(tmp_path) == ({}, {})
    assert machine.disks([("data", tmp_path / "nothing")]) == []


def test_a_thermal_zone_where_there_is_no_sensor(tmp_path: Path) -> None:
    zone = "sys/class/thermal/thermal_zone0"
    root = board(tmp_path, {f"{zone}/temp": "-5000\n", f"{zone}/type": "cpu-thermal\n"})
    assert machine.sensors(root) == ({"cpu-thermal": -5.0}, {})


def test_this_computer() -> None:
    root = Path("/")
    assert len(machine.load(root)) == 3
    assert 0 < machine.memory(root)["available"] <= machine.memory(root)["total"]
    (disk,) = machine.disks([("root", root)])
    assert 0 <= disk.available <= disk.total
    assert disk.kind
