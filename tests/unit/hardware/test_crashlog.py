# SPDX-License-Identifier: GPL-2.0-only
"""Crash reports and the causes of resets: what is decided from which evidence, and what is on the disk afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.hardware import boots, crash_report, crashlog, pstore
from appliance.hardware.boots import Boot, Boots
from appliance.hardware.crash_report import About, Section
from appliance.hardware.crashlog import CrashLog, Report
from appliance.hardware.pstore import File, crashes
from appliance.hardware.reset_cause import Evidence, decide, judge, ran_s
from appliance.system import files

NMI = "Panic#1 Part1\n<0>[   12.3] Kernel panic - not syncing: NMI: Not continuing\n"
SYSRQ = "Panic#2 Part1\n<0>[   99.0] Kernel panic - not syncing: sysrq triggered crash\n"
PRETIMEOUT = "<0>[ 12.3] Kernel panic - not syncing: watchdog pretimeout event\n"
SOFTDOG = "<0>[ 12.3] Kernel panic - not syncing: Software Watchdog Timer expired\n"


# -- the cause


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (NMI, "watchdog"),
        (PRETIMEOUT, "watchdog"),
        (SOFTDOG, "watchdog"),
        (SYSRQ, "panic"),
        ("Oops#1 Part1\nBUG: something", None),
        ("", None),
    ],
)
def test_what_a_record_says(text: str, kind: str | None) -> None:
    found = judge(text)
    assert (found.kind if found else None) == kind


RAN = Evidence(mark=True)


@pytest.mark.parametrize(
    ("evidence", "kind"),
    [
        (Evidence(same_boot=True, mark=True), "none"),
        (Evidence(), "first"),
        (RAN, "power"),
        (RAN._replace(order="orderly"), "orderly"),
        (RAN._replace(order="reboot", by="anna"), "reboot"),
        (RAN._replace(order="poweroff"), "poweroff"),
        (RAN._replace(order="reboot", version="1.0", now="1.1"), "update"),
        (RAN._replace(version="1.0", now="1.1"), "power"),
        (RAN._replace(records=(NMI,)), "watchdog"),
        (RAN._replace(order="orderly", records=(SYSRQ,)), "panic"),
        (Evidence(records=("nothing", SYSRQ)), "panic"),
        (RAN._replace(watchdog="imx2+ watchdog"), "watchdog"),
        (RAN._replace(watchdog="imx2+ watchdog", order="reboot"), "reboot"),
        (RAN._replace(watchdog="imx2+ watchdog", records=(SYSRQ,)), "panic"),
        (RAN._replace(warm=True), "unknown"),
        (RAN._replace(warm=True, order="orderly"), "orderly"),
        (RAN._replace(warm=True, watchdog="iTCO_wdt"), "watchdog"),
    ],
)
def test_the_strongest_evidence_decides(evidence: Evidence, kind: str) -> None:
    assert decide(evidence).kind == kind


def test_an_order_names_who_gave_it_and_an_update_both_versions() -> None:
    assert decide(RAN._replace(order="reboot", by="anna")).text == "reboot by order of anna"
    assert "1.1 after 1.0" in decide(RAN._replace(order="reboot", by="anna", version="1.0", now="1.1")).text


def test_how_long_the_machine_ran_is_the_last_stamp() -> None:
    assert ran_s(f"<6>[    0.1] Linux version 6\n{SYSRQ}no stamp\n") == 99
    assert ran_s("no stamp") is None


# -- the store


def test_the_parts_of_a_crash_belong_together_and_an_oops_to_its_panic() -> None:
    found = [
        File(Path(str(place)), f"{number}.{part} ", number, part)
        for place, (number, part) in enumerate([(1, 1), (1, 2), (2, 1), (2, 2), (1, 1), (2, 1), (2, 2), (1, 1)])
    ]
    assert [crash.text for crash in crashes(found)] == ["1.2 1.1 2.2 2.1 ", "1.1 2.2 2.1 ", "1.1 "]


def test_a_torn_record_is_text_and_a_packed_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "pmsg-ramoops-0").write_bytes(b"good line\n\x00\xff\x1b[2J\n")
    (tmp_path / "dmesg-ramoops-0.enc.z").write_bytes(b"\x78\x9c123")
    found = pstore.read(tmp_path)
    assert found.messages[0].text == "good line\n?\ufffd?[2J\n"
    assert "5 bytes that the kernel could not decompress" in found.crashes[0].text


def test_a_long_text_keeps_its_end() -> None:
    assert pstore.tail("one\ntwo\nthree\n", 9) == "... 8 characters left out ...\nthree\n"
    assert pstore.tail("one\n", 9) == "one\n"


# -- a report


ABOUT = About(7, "panic", "kernel panic: it\nbroke", "2026-05-04T03:02:01Z", "1.2", "id", 99)


def test_a_report_says_what_it_was_made_from() -> None:
    text = crash_report.compose(ABOUT, [Section("kernel log", "dmesg-erst-1", "a\nb\n")])
    assert crash_report.parse(text) == ABOUT._replace(cause="kernel panic: it broke")
    assert text.endswith("\n==== kernel log (dmesg-erst-1) ====\na\nb\n")
    unknown = About(1, "unknown", "", "")
    assert crash_report.parse(crash_report.compose(unknown, [])) == unknown


@pytest.mark.parametrize("text", ["", "\n", "words", "Throughwire crash report x\nreset: panic\n"])
def test_a_damaged_report_has_no_head(text: str) -> None:
    assert crash_report.parse(text) is None


# -- the boots


def test_boots_are_counted_and_the_newest_kept() -> None:
    kept = Boots()
    for number in range(boots.KEPT + 5):
        kept = boots.add(kept, Boot(0, "", "power" if number % 2 else "reboot", "why", "1.0", number or None))
    assert (kept.count, dict(kept.by_kind)) == (69, {"power": 34, "reboot": 35})
    assert [kept.newest[0].number, kept.newest[-1].number, len(kept.newest)] == [6, 69, boots.KEPT]
    assert boots.unpack(boots.pack(kept)) == kept
    for damaged in (None, {}, {"count": 1, "by_kind": [], "newest": []}, {"count": 1, "by_kind": {}, "newest": [[1]]}):
        assert boots.unpack(damaged) == Boots()


# -- the folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "pstore"
    folder.mkdir()
    return folder


def log(store: Path | None, boot: str, version: str = "1.0", watchdog: str = "") -> CrashLog:
    state = Path(str(store)).parent if store else Path()
    return CrashLog(store, state / "crash", state, boot, version=version, watchdog=lambda: watchdog)


def whole(crash_log: CrashLog, number: int) -> str:
    report = crash_log.read(number)
    assert isinstance(report, Report)
    return report.text


def test_records_become_one_numbered_report_and_are_judged_once(store: Path) -> None:
    log(store, "boot-0").collect()
    (store / "dmesg-erst-1").write_text(NMI)
    (store / "dmesg-erst-2").write_text("Panic#1 Part2\n<6>[    1.0] older words\n")
    first = log(store, "boot-1")
    assert first.collect().kind == "watchdog"
    assert not list(store.iterdir())
    (report,) = first.reports()
    about = report.about
    assert (about.number, about.kind, about.version, about.boot, about.ran_s) == (1, "watchdog", "1.0", "boot-0", 12)
    assert (first.report, report.text) == (1, "")
    text = whole(first, 1)
    assert text.index("older words") < text.index("Kernel panic")
    assert first.boots.newest[-1].report == 1
    again = log(store, "boot-1")
    assert again.collect().kind == "none"
    assert (again.report, again.boots.count) == (1, 2), "bypassd was restarted, the machine was not"
    assert log(store, "boot-2").collect().kind == "power"
    assert first.read(2) is None


def test_what_user_space_left_is_in_the_report_of_the_last_boot_only(store: Path) -> None:
    (store / "dmesg-ramoops-0").write_text(SYSRQ.replace("#2", "#1"))
    (store / "dmesg-ramoops-1").write_text(NMI)
    (store / "pmsg-ramoops-0").write_text("[98.0] ERROR part steering has been silent\n")
    (store / "console-ramoops-0").write_text("the console's last line")
    crash_log = log(store, "boot-1")
    crash_log.collect()
    assert [report.about.kind for report in crash_log.reports()] == ["panic", "watchdog"]
    assert "steering" not in whole(crash_log, 1)
    text = whole(crash_log, 2)
    assert "==== bypassd's last log lines (pmsg-ramoops-0) ====\n[98.0] ERROR part steering" in text
    assert text.endswith("==== console (console-ramoops-0) ====\nthe console's last line\n")


def test_an_orderly_end_leaves_no_report_and_no_old_lines_for_the_next_crash(store: Path) -> None:
    first = log(store, "boot-1")
    first.collect()
    first.planned = ("reboot", "anna")
    first.mark_orderly()
    (store / "console-ramoops-0").write_text("going down")
    second = log(store, "boot-2")
    assert second.collect().text == "reboot by order of anna"
    assert (second.reports(), list(store.iterdir())) == ([], [])
    assert second.boots.newest[-1].ran_s is not None


def test_memory_that_was_kept_without_a_reason_is_evidence_of_its_own(store: Path) -> None:
    log(store, "boot-1").collect()
    (store / "console-ramoops-0").write_text("it stopped here")
    crash_log = log(store, "boot-2")
    assert crash_log.collect().kind == "unknown"
    assert "it stopped here" in whole(crash_log, 1)


def test_the_flag_of_a_device_counts_once(store: Path) -> None:
    log(store, "boot-1").collect()
    assert log(store, "boot-2", watchdog="imx2+ watchdog").collect().kind == "watchdog"
    assert log(store, "boot-2", watchdog="imx2+ watchdog").collect().kind == "none"


def test_another_version_after_an_orderly_end_is_an_update(store: Path) -> None:
    first = log(store, "boot-1", "1.0")
    first.collect()
    first.mark_orderly()
    assert log(store, "boot-2", "1.1").collect().kind == "update"


def test_a_damaged_mark_is_no_mark(store: Path) -> None:
    for text in ("{", "[]", '"x"'):
        (store.parent / "last-run.json").write_text(text)
        assert log(store, "b").collect().kind == "first"


def test_a_disk_that_refuses_leaves_the_record_where_it_is(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(store, "boot-1").collect()
    (store / "dmesg-erst-1").write_text(NMI)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            log(store, "boot-2").collect()
    assert [path.name for path in store.iterdir()] == ["dmesg-erst-1"]
    later = log(store, "boot-3")
    assert later.collect().kind == "watchdog"
    assert [report.about.number for report in later.reports()] == [1]


def test_old_reports_are_removed_and_numbers_only_grow(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that panics at every boot: the newest stay, by number and by size, and always the last one."""
    folder = store.parent / "crash"
    folder.mkdir()
    for number in range(crashlog.KEPT + 10):
        (folder / f"20260101T0000{number:02d}_panic_old.txt").write_text(SYSRQ)
    (store / "dmesg-erst-1").write_text(SYSRQ)
    crash_log = log(store, "b")
    crash_log.collect()
    numbers = [report.about.number for report in crash_log.reports()]
    assert (len(numbers), numbers[-1]) == (crashlog.KEPT, crashlog.KEPT + 1)
    assert {report.about.kind for report in crash_log.reports()} == {"panic"}
    monkeypatch.setattr(crashlog, "KEPT_BYTES", 1)
    log(store, "b").collect()
    assert [report.about.number for report in crash_log.reports()] == numbers[-1:]
    for path in folder.iterdir():
        path.unlink()
    (store / "dmesg-erst-1").write_text(SYSRQ)
    log(store, "c").collect()
    assert [report.about.number for report in crash_log.reports()] == [numbers[-1] + 1], "also when all are gone"
