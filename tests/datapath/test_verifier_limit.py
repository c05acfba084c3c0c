# SPDX-License-Identifier: GPL-2.0-only
"""Rules that take the kernel's verifier too long: the time is bounded, and a simpler, correct form is loaded."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config.schema.model import Config, Rule, Segment
from appliance.filter import compiler, loader
from appliance.filter.compiler import compile_filter
from appliance.filter.linkage import LoadableProgram
from appliance.steering.explain.model import Where
from appliance.steering.kernel.layout import Role, Side
from appliance.system import libbpf
from appliance.system.processor_limit import SIGNAL, processor_limit
from tests.support.frames import KINDS
from tests.support.pcap_corpus import rule_set
from tests.support.terminal import bypass
from tests.support.twin import Twin

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    compiler.forget()
    yield
    compiler.forget()


def branching(count: int) -> list[str]:
    """Rules that compare values of the frame with each other, behind tags and labels: merged, they branch too much."""
    return [
        f"(vlan {n} and ip[2] > ip[3]) or (mpls {n} and ip host 10.0.0.{n}) or ip6[{n % 30}] > ip6[{(n + 3) % 30}]"
        for n in range(count)
    ]


def test_what_the_verifier_cannot_follow_is_loaded_rule_by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """In time, correct, and reported; the second time the right form is known."""
    filters = [compile_filter(text) for text in branching(60)]
    tried: list[tuple[str, float]] = []
    real = loader.load_program

    def timed(program: LoadableProgram, *rest: object) -> int:
        began = time.thread_time()
        try:
            return real(program, *rest)  # type: ignore[arg-type]
        finally:
            tried.append((program.name, time.thread_time() - began))

    monkeypatch.setattr(loader, "load_program", timed)
    loaded = compiler.load_classifier(filters, kind="xdp")
    assert loaded.report.method == "chain"
    assert "the kernel" in loaded.report.refused
    assert max(seconds for _, seconds in tried) < loader.MAX_VERIFIER_S + 0.5
    dice = random.Random(4)
    frames = [
        b"\x02" * 12 + kind + dice.randbytes(80) for kind in (b"\x86\xdd", b"\x81\x00\x00\x05\x08\x00", b"\x08\x00")
    ]
    for frame in frames:
        expected = compiler.first_match(filters, frame)
        assert loader.run_once(loaded.entry_fd, frame).value == (compiler.NO_MATCH if expected is None else expected)
    loaded.close()
    tried.clear()
    again = compiler.load_classifier(filters, kind="tc")
    assert len(tried) == 1, "the same rules are not tried in vain for tc, nor at the next commit"
    assert again.report.refused == loaded.report.refused
    again.close()


def test_the_verifiers_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is interrupted, and what it was asked to verify is named as too complex; nothing stays open."""
    filters = [compile_filter(text) for text in branching(60)]
    generated = compiler.build_classifier(filters, kind="xdp")
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(loader, "MAX_VERIFIER_S", 0.2)
    began = time.thread_time()
    with pytest.raises(loader.TooComplexError, match=r"takes more than 0\.2 s to verify"):
        compiler.load_set(generated)
    assert time.thread_time() - began < 1.0
    assert len(os.listdir("/proc/self/fd")) == before


def test_other_signals_end_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals that arrive meanwhile interrupt the verifier too: it is asked again."""
    loads: list[int] = []
    library = libbpf.library()
    real = library.bpf_prog_load

    class Library:
        def __getattr__(self, name: str) -> object:
            return getattr(library, name)

        def bpf_prog_load(self, *args: object) -> int:
            loads.append(1)
            return -11 if len(loads) < 4 else real(*args)  # EAGAIN

    monkeypatch.setattr(libbpf, "library", Library)
    loaded = compiler.load_classifier([compile_filter("tcp port 80")], kind="xdp")
    assert len(loads) == 4
    loaded.close()


def test_usual_sets_stay_far_below_the_limit() -> None:
    """Or they would be loaded rule by rule on a slow board."""
    filters = [compile_filter(text) for text in rule_set("mixed", 256)]
    loaded = compiler.load_classifier(filters, kind="xdp")
    assert (loaded.report.method, loaded.report.refused) == ("merged", "")
    loaded.close()


def branching_config() -> Config:
    rules = tuple(Rule(name=f"r{number}", match=match) for number, match in enumerate(branching(60)))
    return Config(segment=(Segment(name="main", lan="lan0", wan="wan0"),), rule=rules)


def test_the_whole_policy(bpf_object: Path) -> None:
    """Joined with the core or not, for XDP and for tc: loaded within seconds, equal to the model, and said once."""
    began = time.thread_time()
    twin = Twin(bpf_object, branching_config())
    assert time.thread_time() - began < 6 * loader.MAX_VERIFIER_S
    twin.attach()
    for kind in ("xdp", "tc"):
        for frame in KINDS.values():
            twin.both(Where(Role.PORT, 0, Side.LAN), frame, kind)
    prepared = twin.datapath.prepare_policy(branching_config())
    (remark,) = prepared.generated.remarks({0: "main"})
    prepared.close()
    twin.close()
    assert (remark.severity, remark.where) == ("note", "segment main")
    assert "its rules are tested rule by rule, which takes longer for each frame: program" in remark.what


def test_check_says_it(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    segment = '[[segment]]\nname = "main"\nlan = "lan0"\nwan = "wan0"\n'
    rules = [f"[[rule]]\nname = 'r{number}'\nmatch = '{match}'\n" for number, match in enumerate(branching(60))]
    file.write_text(segment + "".join(rules))
    done = bypass("check", str(file), sock="/nonexistent")
    assert "note: segment main: its rules" in done.stdout
    assert "are tested rule by rule" in done.stdout
    file.write_text(segment + "".join(rules[:9]))
    assert "its rules" not in bypass("check", str(file), sock="/nonexistent").stdout


def test_a_limit_leaves_no_thread_and_no_signal() -> None:
    """A thread that computes is told; one that waits has used no processor time."""
    before = threading.active_count()
    with processor_limit(0.05) as over:
        end = time.thread_time() + 1.0
        while not over() and time.thread_time() < end:
            pass
        assert over()
    with processor_limit(0.05) as over:
        threading.Event().wait(0.2)
        assert not over()
    assert threading.active_count() == before
    assert SIGNAL not in signal.sigpending()
