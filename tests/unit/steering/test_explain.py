# SPDX-License-Identifier: GPL-2.0-only
"""`explain` by the model, for users and scripts: the documented JSON, the text, reasons, flows by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from appliance.config.check.load import loads
from appliance.errors import RefusedError
from appliance.filter.compiler import compile_filter
from appliance.frames.builder import frame_of
from appliance.steering.explain.backends import ModelEngine
from appliance.steering.explain.explain import walk
from appliance.steering.explain.filter_reason import why_not
from appliance.steering.kernel.layout import Side
from tests.support.frames import KINDS, tcp
from tests.support.terminal import bypass

CONFIG = """
[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"
[[segment]]
name = "lab"
lan = "lan1"
wan = "wan1"
[[guest]]
name = "ips1"
kernel = "k"
[[guest]]
name = "ips2"
kernel = "k"
[[guest]]
name = "dpi"
kernel = "k"
accept = "tcp"
[[guest]]
name = "far"
kernel = "k"
[[group]]
name = "ips"
standby = ["ips1", "ips2"]
[[group]]
name = "half"
balance = [ { hop = "ips1", weight = 50 }, { hop = "ips2", weight = 50 } ]
[[rule]]
name = "lab-only"
segment = "lab"
match = "udp"
path = ["far"]
[[rule]]
name = "web"
match = "tcp port 80 or tcp port 443"
path = ["ips", "dpi"]
[[rule]]
name = "dns"
match = "udp port 53"
path = ["half"]
on_unavailable = "block"
[[rule]]
name = "pings"
match = "icmp"
path = ["far"]
"""
FLOWS = [
    ("tcp", "10.0.0.5:1234", "10.1.0.9:80"),
    ("udp", "10.0.0.5:1234", "10.1.0.9:54"),
    ("udp", "10.0.0.5:1234", "10.1.0.9:53"),
    ("icmp", "10.0.0.5", "10.1.0.9"),
]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A configuration and a capture."""
    frames = [*(frame_of(*flow) for flow in FLOWS), b"\x01\x02\x03"]
    records = [struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames]
    (tmp_path / "c.toml").write_text(CONFIG)
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    (tmp_path / "f.pcap").write_bytes(head + b"".join(records))
    return str(tmp_path / "c.toml"), str(tmp_path / "f.pcap")


def explain(files: tuple[str, str], *more: str, side: str = "lan") -> str:
    done = bypass(
        "explain", "--config", files[0], "--in", side, "--pcap", files[1], "--segment", "main", "--backend", "model",
        *more, sock="/nonexistent",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_json_is_what_is_promised(files: tuple[str, str]) -> None:
    """One object a line with these four keys in this order, and nothing else; no daemon is there."""
    lines = explain(files, "--json").splitlines()
    assert lines[:2] == [
        '{"frame": 1, "rule": "web", "hops": ["ips1", "dpi"], "verdict": "guest:ips1"}',
        '{"frame": 2, "rule": null, "hops": [], "verdict": "port:wan"}',
    ]
    rows = [json.loads(line) for line in lines]
    assert all(list(row) == ["frame", "rule", "hops", "verdict"] for row in rows)
    assert rows[2]["verdict"] in ("guest:ips1", "guest:ips2")
    assert rows[3] == {"frame": 4, "rule": "pings", "hops": ["far"], "verdict": "guest:far"}
    assert rows[4] == {"frame": 5, "rule": None, "hops": [], "verdict": "port:wan"}


def test_what_is_down_is_passed_over(files: tuple[str, str]) -> None:
    """--down, several times: the next member, past the guest, or a drop; from the WAN the chain runs backward."""
    rows = [json.loads(line) for line in explain(files, "--json", "--down", "ips1", "--down", "dpi").splitlines()]
    assert (rows[0]["hops"], rows[0]["verdict"]) == (["ips2"], "guest:ips2")
    rows = [json.loads(line) for line in explain(files, "--json", "--down", "ips1", "--down", "ips2").splitlines()]
    assert (rows[2]["hops"], rows[2]["verdict"]) == ([], "drop")
    rows = [json.loads(line) for line in explain(files, "--json", side="wan").splitlines()]
    assert (rows[0]["hops"], rows[0]["verdict"], rows[1]["verdict"]) == (["dpi", "ips1"], "guest:dpi", "port:lan")


def test_words_for_a_person(files: tuple[str, str]) -> None:
    """Rule by rule why not, the filter that matches, the group's choice and why, what holds of each hop, verdict."""
    text = explain(files, "--down", "ips1")
    first, second, third, *_ = text.split("\nframe ")
    assert first.splitlines() == [
        "frame 1: guest:ips2  web: ips2 > dpi  (by the model)",
        "    rule lab-only: no, it is for segment lab",
        "    rule web: yes, match tcp port 80 or tcp port 443",
        (
            "      ips1 (group ips, standby: ips1 > ips2; down, as asked for): skipped: "
            "not available (no lease, or not attached to this segment)"
        ),
        "      ips2 (group ips, standby: ips1 > ips2; available): takes it",
        "    from ips2:",
        "      dpi (available): takes it",
        "    from dpi:",
        "    port:wan: out: end of the path",
    ]
    assert "    rule web: no, IP protocol is 17 (udp) (match tcp port 80 or tcp port 443)" in second
    assert "    rule dns: no, destination port is 54 (match udp port 53)\n" in second
    assert second.endswith("    no rule matches\n    port:wan: straight to the other port")
    assert " of 1024 by addresses and ports: ips" in third


CUT = """
[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"
[[rule]]
name = "big"
match = "greater 1000"
path = []
"""


def test_frames_that_the_capture_cut_count_at_their_length_on_the_wire(tmp_path: Path) -> None:
    """What tcpdump says of `greater 1000`; a warning names the frame, and standard output stays for scripts."""
    frame = frame_of("udp", "10.0.0.5:1234", "10.1.0.9:53")
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 96, 1)
    records = [struct.pack("<IIII", 0, 0, len(frame), length) + frame for length in (1454, 60)]
    (tmp_path / "c.toml").write_text(CUT)
    (tmp_path / "f.pcap").write_bytes(head + b"".join(records))
    done = bypass(
        "explain", "--config", str(tmp_path / "c.toml"), "--in", "lan", "--pcap", str(tmp_path / "f.pcap"), "--json",
        "--backend", "model", sock="/nonexistent",
    )  # fmt: skip
    assert [json.loads(line)["rule"] for line in done.stdout.splitlines()] == ["big", None]
    assert done.stderr == "warning: frame 1: captured 60 of 1454 bytes; the others are assumed to be zero\n"


@pytest.mark.parametrize("form", ["--json", ""])
def test_whole_frames_of_a_file_that_is_cut_off_come_first(files: tuple[str, str], form: str) -> None:
    """Rows come as they are made: the error of a cut-off file is the last word, not the only one."""
    Path(files[1]).write_bytes(Path(files[1]).read_bytes()[:-30])
    done = bypass(
        "explain", "--config", files[0], "--in", "lan", "--pcap", files[1], "--segment", "main", "--backend", "model",
        *([form] if form else []), sock="/nonexistent",
    )  # fmt: skip
    assert done.stdout.count("web") >= 1
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {files[1]}: the file is cut off at byte ")


WHY = [
    ("tcp port 80", "IP protocol is 17 (udp)"),
    ("udp port 80", "destination port is 53"),
    ("udp src port 80", "source port is 1234"),
    ("ip6", "EtherType is 0x0800 (IPv4)"),
    ("vlan 30", "EtherType is 0x0800 (IPv4)"),
    ("net 172.16.0.0/12", "destination address & 255.240.0.0 is 10.0.0.0"),
    ("dst host 10.1.0.8", "destination address is 10.1.0.9"),
    ("len > 1000", "its length is 60"),
    ("ip[6:2] & 0x1fff != 0", "fragment offset is 0"),
    ("ether[0] & 1 = 1", "byte 0 & 0x1 is 0x0"),
    ("ip[8] < 5", "byte 22 is 0x40"),
    ("ether[100] = 3", "the frame ends before byte 101"),
    ("not udp", "IP protocol is 17 (udp)"),
    ("udp", ""),
]


@pytest.mark.parametrize(("text", "reason"), WHY)
def test_why_not(text: str, reason: str) -> None:
    """The last field that the filter tested, by its name."""
    assert why_not(compile_filter(text), frame_of("udp", "10.0.0.5:1234", "10.1.0.9:53")) == reason


@pytest.mark.parametrize(
    ("flow", "match"),
    [
        (("udp", "10.0.0.5:1234", "10.1.0.9:53"), "src host 10.0.0.5 and udp src port 1234 and udp dst port 53"),
        (("tcp", "10.0.0.5:1", "10.1.0.9:65535"), "tcp[13] = 2 and dst host 10.1.0.9 and tcp dst port 65535"),
        (("icmp", "10.0.0.5", "10.1.0.9"), "icmp[0] = 8"),
        (("udp", "[fd00::5]:1", "[fd01::9]:53"), "ip6 and src host fd00::5 and udp dst port 53"),
        (("tcp", "[fd00::5]:1", "[fd01::9]:80"), "ip6 and tcp dst port 80 and ip6[4:2] = 20"),
        (("icmp", "fd00::5", "fd01::9"), "icmp6 and ip6[40] = 128"),
        (("udp", "10.0.0.5", "10.1.0.9:53"), "udp src port 50000 and udp dst port 53"),
        (("tcp", "[fd00::5]", "[fd01::9]:80"), "src host fd00::5 and tcp src port 50000"),
    ],
)
def test_frame_of_a_named_flow(flow: tuple[str, str, str], match: str) -> None:
    """A whole frame of that flow, with right checksums (held against scapy's)."""
    from scapy.layers.l2 import Ether

    frame = frame_of(*flow)
    assert len(frame) >= 60
    assert compile_filter(match).matches(frame)
    made = Ether(frame)
    layer = made
    while layer:
        for name in ("chksum", "cksum"):
            if name in layer.fields:
                delattr(layer, name)
        layer = layer.payload
    assert bytes(made) == frame


@pytest.mark.parametrize(
    ("source", "destination", "words"),
    [
        ("10.0.0.5", "10.1.0.9", "write ADDRESS:PORT, such as"),
        ("10.0.0.5:70000", "10.1.0.9:53", '"70000" is no port'),
        ("10.0.0.500:1", "10.1.0.9:53", "does not appear to be an IPv4 or IPv6 address"),
        ("fd00::1:53", "10.1.0.9:53", "write ADDRESS:PORT"),
        ("[fd00::1]:1", "10.1.0.9:53", "[fd00::1]:1 is IPv6 and 10.1.0.9:53 is IPv4"),
    ],
)
def test_flows_that_are_none(source: str, destination: str, words: str) -> None:
    """What cannot be read is named."""
    with pytest.raises(RefusedError) as error:
        frame_of("udp", source, destination)
    assert words in str(error.value)


CASES = """
[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"
[[guest]]
name = "ips1"
kernel = "k"
[[guest]]
name = "ips2"
kernel = "k"
"""
SIP = '[[rule]]\nname = "sip"\nmatch = "udp port 5353"\npath = ["ips1"]\n'
BOTH = '[[rule]]\nname = "both"\npath = ["ips1", "ips2"]\non_unavailable = "block"\nrequire = "all"\n'


def of(tmp_path: Path, rules: str, frames: list[bytes]) -> tuple[str, str]:
    """A configuration with these rules, and a capture of these frames."""
    records = [struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames]
    (tmp_path / "c.toml").write_text(CASES + rules)
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    (tmp_path / "f.pcap").write_bytes(head + b"".join(records))
    return str(tmp_path / "c.toml"), str(tmp_path / "f.pcap")


def test_fragments_in_words(tmp_path: Path) -> None:
    """A later fragment follows its first, and explain says why, as the frame itself shows no port."""
    first, later = KINDS["its first fragment after it"], KINDS["lone later fragment"]
    files = of(tmp_path, SIP.replace("5353", "8"), [later, first, later])
    before, _, behind = explain(files).split("\nframe ")
    assert before.startswith("frame 1: port:wan  no rule: straight")
    assert "    rule sip: yes, match udp port 8: the first fragment of its datagram did" in behind


def test_link_local_frames_in_words(tmp_path: Path) -> None:
    files = of(tmp_path, BOTH, [KINDS["lldp"]])
    assert json.loads(explain(files, "--json")) == {"frame": 1, "rule": None, "hops": [], "verdict": "port:wan"}
    assert 'straight to the other port: a control frame of the link itself (link_local = "straight")' in explain(files)


def test_what_requires_all_in_words(tmp_path: Path) -> None:
    """Each hop that was looked at, and which one is missing."""
    files = of(tmp_path, BOTH, [KINDS["tcp"]])
    assert "      ips2 (available): will take it, as the rule requires" in explain(files)
    missing = explain(files, "--down", "ips2")
    assert missing.splitlines()[0] == "frame 1: drop  both: straight  (by the model)"
    assert missing.rstrip().endswith('drop: dropped: a hop is not available, and the rule says require = "all"')
    bypass_ = of(tmp_path, BOTH.replace('"block"', '"bypass"'), [KINDS["tcp"]])
    assert (
        explain(bypass_, "--down", "ips2")
        .rstrip()
        .endswith('port:wan: to the other port: a hop is not available, and the rule says require = "all"')
    )


def test_what_a_rule_looks_through_in_words(tmp_path: Path) -> None:
    rule = '[[rule]]\nname = "web"\nmatch = "tcp port 80"\nthrough = ["mpls"]\npath = ["ips1"]\n'
    files = of(tmp_path, rule, [KINDS["mpls"], KINDS["qinq"]])
    labelled, tagged = explain(files).split("\nframe ")
    assert "    rule web: yes, match tcp port 80 through mpls" in labelled
    assert "(match tcp port 80 through mpls)" in tagged


def test_groups_in_words(tmp_path: Path) -> None:
    """A group below its minimum, and what a spare member and a hash by one address mean for the choice."""
    group = '[[group]]\nname = "g"\nbalance = [ { hop = "ips1" } ]\nspare = ["ips2"]\nhash = "source"\nminimum = 2\n'
    rule = '[[rule]]\nname = "r"\npath = ["g"]\non_unavailable = "link-down"\n'
    files = of(tmp_path, group + rule, [KINDS["tcp"]])
    assert " of 1024 by the address at the LAN: ips1 > ips2; available): takes it" in explain(files)
    few = explain(files, "--down", "ips1").splitlines()
    assert few[0] == "frame 1: drop  r: straight  (by the model)"
    assert few[2].endswith("down, as asked for): skipped: fewer members of the group are available than its minimum")
    assert few[3].endswith("available): skipped: fewer members of the group are available than its minimum")
    assert few[4] == (
        '    drop: dropped: too few hops of the path are available, and the rule says on_unavailable = "link-down"; '
        "the links of both ports are taken down"
    )


def test_a_reset_in_words(tmp_path: Path) -> None:
    """What becomes of a frame whose flow a member knows that has failed."""
    group = '[[group]]\nname = "g"\nstandby = ["ips1", "ips2"]\non_member_failure = "reset"\n'
    config = loads(CASES + group + '[[rule]]\nname = "r"\npath = ["g"]\n', "test")
    engine = ModelEngine(config)
    list(walk(engine, [tcp(flags="S")], Side.LAN, 0))
    list(walk(engine, [tcp(back=True)], Side.WAN, 0))
    engine._model.state.leases.pop(engine.policy.hops["ips1"].id)
    (first,) = walk(engine, [tcp()], Side.LAN, 0)
    (second,) = walk(engine, [tcp()], Side.LAN, 0)
    assert (first.verdict, second.verdict) == ("port:wan", "port:lan")
    assert 'not available, and it knows the flow, which is reset (on_member_failure = "reset")' in first.why[1]
    assert first.why[-1].startswith("port:wan: a TCP reset instead of the frame")
