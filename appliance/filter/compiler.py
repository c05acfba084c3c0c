# SPDX-License-Identifier: GPL-2.0-only
"""The entry point of this package: from filter texts to generated programs, and from those into the kernel.

`compile_filter` gives the classic filter (cached by text). `build_classifier` makes the programs that find the first
rule that matches, `build_accept` those that say which hops accept a frame. `load_classifier` and `load_accept` build
and load them, falling back to smaller or plainer programs where the verifier gives up. `first_match` is the reference.

The holder of a `LoadedSet` owns its descriptors. Programs in a program array outlive them, but the array itself needs
an owner or a pin.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

from appliance.errors import DatapathError, FilterError
from appliance.filter import chain, classic, classifier, equivalence, libpcap, loader, symbolic
from appliance.filter import merge as merge_module
from appliance.filter import through as through_module
from appliance.filter.asm import R0, R1, Assembler, TooLongError
from appliance.filter.classic import ClassicFilter, Instruction
from appliance.filter.flowkey import uses_only_flow_key
from appliance.filter.frame_reader import CTX, Kind, Vlan
from appliance.filter.graph import REJECT, Graph
from appliance.filter.linkage import NO_MATCH, PROGRAMS, SCRATCH, TABLES, Host, Linkage, LoadableProgram
from appliance.filter.merge import BudgetError
from appliance.filter.report import Report
from appliance.filter.tables import TableError

__all__ = [
    "MAX_ACCEPT_FILTERS",
    "MAX_CLASSIFIER_RULES",
    "MAX_FILTER_LENGTH",
    "MAX_PARTS",
    "NO_MATCH",
    "ClassicFilter",
    "FilterError",
    "GeneratedSet",
    "Linkage",
    "LoadableProgram",
    "LoadedSet",
    "Report",
    "build_accept",
    "build_classifier",
    "compile_filter",
    "first_match",
    "first_match_libpcap",
    "forget",
    "load_accept",
    "load_classifier",
    "load_constant",
    "uses_only_flow_key",
]

MAX_CLASSIFIER_RULES = 4096
MAX_ACCEPT_FILTERS = 64  # bits of the accept mask
MAX_FILTER_LENGTH = 8192  # characters
MAX_PARTS = 24  # programs that one frame may pass; the kernel allows 33 tail calls, the core needs some
MIN_PART_JUMPS = 250
CACHE_NS = 15  # of a hit; a miss costs about as much more
CACHE_FROM_NS = 40  # caching faster filters does not pay: not every frame hits
MAX_RUNS = 16  # of rules, each with a graph of its own, before merging is given up
MAX_UNOPTIMISED = 32_768  # instructions of a filter before optimisation; 8,192 characters make half as many
MAX_STATES_COMPARED = 60_000  # of one filter, to compare optimised with unoptimised code
_CACHED_FILTERS = 8192
_REMEMBERED_FORMS = 16
_ATTACHED = "attached"
_REFUSED_WORDS = re.compile(r"\b(inbound|outbound|ifindex|protochain|ifname|rulenum|reason|on)\b")


@lru_cache(maxsize=_CACHED_FILTERS)
def _compile(text: str) -> ClassicFilter:
    if len(text) > MAX_FILTER_LENGTH:
        raise FilterError(f"the filter has {len(text)} characters; at most {MAX_FILTER_LENGTH} are allowed")
    plain = libpcap.compile_text(text)
    try:
        classic.check(plain, MAX_UNOPTIMISED)
        return ClassicFilter(_chosen(text, plain), text)
    except FilterError as error:
        found = _REFUSED_WORDS.search(text)
        raise FilterError(error.what, text=text, column=found.start() if found else None) from None


def _chosen(text: str, plain: tuple[Instruction, ...]) -> tuple[Instruction, ...]:
    """The shorter, optimised instructions where they certainly mean the same for whole frames; else the plain ones.

    libpcap's optimiser miscompiles some filters. Of frames that end within a header that the filter asks for it may
    take one that the plain code rejects, since it drops loads whose value is not needed: that is left to it.
    """
    graph = Graph()

    def root(code: tuple[Instruction, ...]) -> int:
        identity = int(code is not plain)
        return symbolic.graph_of(graph, ClassicFilter(code), identity, max_states=MAX_STATES_COMPARED, whole=True)[0]

    try:
        optimised = libpcap.compile_text(text, optimise=True)
    except FilterError:  # the optimiser says that it takes no frame
        if equivalence.equal(graph, root(plain), REJECT):
            raise
        optimised = plain
    if plain != optimised and equivalence.equal(graph, root(plain), root(optimised)):
        classic.check(optimised)
        return optimised
    classic.check(plain)
    return plain


@lru_cache(maxsize=_CACHED_FILTERS)
def _widened(text: str, ways: tuple[str, ...]) -> ClassicFilter:
    filt = through_module.widen(_compile(text), ways)
    classic.check(filt.instructions)
    return filt


def compile_filter(text: str, *, where: str = "", through: tuple[str, ...] = ()) -> ClassicFilter:
    """The filter that libpcap makes of this text for Ethernet; "" takes every frame.

    `through`: what it looks through (see `through.widen`).

    FilterError quotes libpcap's message (or names what the datapath cannot run), begins with `where`, and has the
    place in `column` where it is known. Results are cached by text; safe to call from several threads.
    """
    try:
        return _widened(text, through) if through else _compile(text)
    except FilterError as error:
        raise FilterError(error.what, where=where, text=text, column=error.column) from None


def first_match(filters: Sequence[ClassicFilter | None], frame: bytes) -> int | None:
    """The reference: index of the first filter that takes the frame, by the interpreter. None entries never match."""
    for rank, filt in enumerate(filters):
        if filt is not None and filt.matches(frame):
            return rank
    return None


def first_match_libpcap(filters: Sequence[ClassicFilter | None], frame: bytes) -> int | None:
    """The same by libpcap itself (`pcap_offline_filter`)."""
    for rank, filt in enumerate(filters):
        if filt is not None and libpcap.run(_oracle(filt), frame):
            return rank
    return None


@lru_cache(maxsize=_CACHED_FILTERS)
def _oracle(filt: ClassicFilter) -> object:
    return libpcap.make_program(filt.instructions)


@dataclass(frozen=True)
class _Form:
    """In which form a set is built; `refused`: why not in a better one, `too_complex`: for its size or branches."""

    joined: bool = True
    merge: bool = True
    jumps: int = chain.PART_JUMPS
    refused: str = ""
    too_complex: bool = False

    def plainer(self, report: Report, error: DatapathError, *, apart: bool) -> _Form | None:
        """The next form to try; None when there is none. `apart`: the set has no slots for parts.

        The core behind a merged set costs the verifier little: what is too complex with it is so without it.
        """
        too_complex = isinstance(error, loader.TooComplexError)
        form = replace(self, refused=self.refused or str(error), too_complex=self.too_complex or too_complex)
        if too_complex and report.method != "chain":
            return replace(form, merge=False)
        if report.joined:
            return replace(form, joined=False)
        jumps = self.jumps // 2
        if not too_complex or jumps < MIN_PART_JUMPS or apart:
            return None
        return replace(form, jumps=jumps)


_forms: dict[tuple[ClassicFilter | None, ...], _Form] = {}
"""Of sets that the kernel did not take in the best form."""


@dataclass(frozen=True)
class GeneratedSet:
    """Programs of one set, not loaded: `programs[0]` is the entry, the others go to their slots before it."""

    kind: Kind
    programs: tuple[LoadableProgram, ...]
    tables: bytes
    report: Report


@dataclass
class LoadedSet:
    """A set in the kernel. `entry_fd` is for the core's slot; `parts` (slot, descriptor) must be placed before it.

    `attached_fds`: the programs to attach to ports, those of `Linkage.attached`; empty where the set is apart.
    """

    entry_fd: int
    parts: tuple[tuple[int, int], ...]
    table_fd: int | None
    report: Report
    attached_fds: tuple[int, ...] = ()
    _closed: bool = field(default=False, repr=False)

    def place_parts(self, programs_fd: int) -> None:
        """Put the parts into their slots of the program array. The entry is the core's to place, last."""
        for slot, fd in self.parts:
            loader.update(programs_fd, slot, fd.to_bytes(4, "little"))

    def close(self) -> None:
        """Close the descriptors; programs in a program array stay."""
        if not self._closed:
            self._closed = True
            tables = () if self.table_fd is None else (self.table_fd,)
            loader.close(self.entry_fd, *(fd for _, fd in self.parts), *tables, *self.attached_fds)


def _ranked(filters: Sequence[ClassicFilter | None]) -> tuple[list[tuple[int, ClassicFilter]], tuple[int, ...]]:
    """Filters with their index, without those that can never be first; and the indexes of the latter."""
    seen: set[ClassicFilter] = set()
    kept: list[tuple[int, ClassicFilter]] = []
    hidden: list[int] = []
    closed = False
    for rank, filt in enumerate(filters):
        if filt is None or filt.constant is False:
            continue
        if filt in seen or closed:
            hidden.append(rank)
            continue
        seen.add(filt)
        kept.append((rank, filt))
        closed = filt.constant is True
    return kept, tuple(hidden)


def build_classifier(
    filters: Sequence[ClassicFilter | None],
    *,
    kind: Kind,
    linkage: Linkage | None = None,
    cached: Linkage | None = None,
    merge: bool = True,
    part_jumps: int = chain.PART_JUMPS,
) -> GeneratedSet:
    """Programs that find the index of the first filter that takes the frame; None entries never match.

    A whole set for `kind`: an XDP set has programs for frames in pieces, a tc set programs for frames whose VLAN tag
    stands beside them; the entry chooses. Without a `linkage` (tests, figures) the set is one program that returns the
    index (NO_MATCH for none) and knows ordinary frames only. `cached`: how the set is linked when the flow cache stands
    before it; taken where that pays and is right (the report says so). FilterError names the limit that the set goes
    beyond.
    """
    if len(filters) > MAX_CLASSIFIER_RULES:
        raise FilterError(f"{len(filters)} rules; at most {MAX_CLASSIFIER_RULES} are allowed")
    started = time.perf_counter()
    ranked, hidden = _ranked(filters)
    report = Report(rules=len(filters), method="chain", unreachable=hidden)
    prepared, programs, ordinary = _build(
        ranked, report, kind=kind, linkage=linkage, cached=cached, merge=merge, part_jumps=part_jumps
    )
    if len(programs) > MAX_PARTS:
        raise FilterError(f"the rules need {len(programs)} programs; at most {MAX_PARTS} fit one after the other")
    report.method, report.why = prepared.method, prepared.why
    _describe(report, prepared)
    _account(report, programs, ordinary)
    tables = prepared.image.finish()
    report.table_bytes = len(tables)
    report.generate_s = time.perf_counter() - started
    return GeneratedSet(kind, tuple(programs), tables, report)


def _build(
    ranked: list[chain.RankedFilter],
    report: Report,
    *,
    kind: Kind,
    linkage: Linkage | None,
    cached: Linkage | None,
    merge: bool,
    part_jumps: int,
) -> tuple[classifier.PreparedSet, list[LoadableProgram], int]:
    """The set, its programs, and how many of them ordinary frames take."""
    smaller = part_jumps < chain.PART_JUMPS
    runs, why = 1, ""
    with merge_module.lock:
        while True:
            prepared = classifier.prepare(tuple(ranked), merged=merge and runs <= MAX_RUNS, runs=runs, why=why)
            report.expected_ns = prepared.expected_ns
            if cached is not None:
                _decide_cache(report, ranked)
                linkage = cached if report.cached else linkage
            slots = list(linkage.part_slots) if linkage else []
            first = [chain.take(slots) for _ in range(1 if linkage else 0)]
            other = first[0] if first else None

            make = partial(
                classifier.programs,
                prepared,
                kind=kind,
                linkage=linkage,
                slots=slots,
                one_by_one=smaller,
                part_jumps=part_jumps,
            )
            try:
                main = None if smaller else _joined(prepared, linkage, kind)
                report.joined = main is not None
                main = main or make(entry=None, other=other)
                programs = main + (make(entry=other, other=None, vlan="metadata") if linkage and kind == "tc" else [])
            except (BudgetError, TableError, TooLongError) as error:
                if prepared.method == "chain":
                    raise FilterError(str(error)) from error
                runs, why = runs * 2, str(error)
                continue
            if linkage and kind == "xdp":
                programs += _in_pieces(ranked, linkage, first + slots, part_jumps)
            return prepared, programs, 1 if report.joined else len(main)


def _joined(prepared: classifier.PreparedSet, linkage: Linkage | None, kind: Kind) -> list[LoadableProgram] | None:
    """The set's program inside its hosts, where there is a host and the set is one program."""
    if linkage is None or linkage.host is None:
        return None
    try:
        inner = classifier.programs(
            prepared,
            kind=kind,
            linkage=replace(linkage, falls=True),
            slots=[],
            entry=None,
            other=linkage.part_slots[0],
        )
        if len(inner) != 1:
            return None
        hosts = [("decide", linkage.host), *((_ATTACHED, host) for host in linkage.attached)]
        return [LoadableProgram(name, *host.around(inner[0].code, inner[0].relocations), None) for name, host in hosts]
    except (TooLongError, FilterError):
        return None


def _decide_cache(report: Report, ranked: Sequence[chain.RankedFilter]) -> None:
    """Whether to put the flow cache before the set, and the reason."""
    report.cached, report.not_keyed = False, None
    report.why_cached = f"the filters take about {report.expected_ns} ns, a look into the cache {CACHE_NS} ns"
    if report.expected_ns < CACHE_FROM_NS:
        return
    report.not_keyed = next((rank for rank, filt in ranked if not uses_only_flow_key(filt)), None)
    if report.not_keyed is not None:
        report.why_cached = "a filter looks at more than a flow's addresses, protocol and ports"
    else:
        report.cached = True


def _in_pieces(
    ranked: Sequence[chain.RankedFilter], linkage: Linkage, slots: list[int], part_jumps: int
) -> list[LoadableProgram]:
    """Rule by rule and through a helper, for XDP frames whose first buffer is too short: exact, and rarely needed."""
    parts = chain.split(ranked, part_jumps, other="xdp")
    places = [chain.take(slots) for _ in parts]
    return [
        chain.program(
            f"pieces{at}",
            part,
            kind="xdp",
            vlan="inline",
            linkage=linkage,
            slot=places[at],
            following=places[at + 1] if at + 1 < len(parts) else None,
            other=None,
            need=0,
            helper_only=True,
        )
        for at, part in enumerate(parts)
    ]


def _describe(report: Report, prepared: classifier.PreparedSet) -> None:
    for part in prepared.parts:
        if part.merged is None:
            if prepared.method != "chain":
                report.straight |= dict.fromkeys((rank for rank, _ in part.filters), part.why)
            continue
        merged = part.merged.merged
        report.states += len(merged.states)
        report.leaves += len(part.merged.plans)
        report.bit_vector_leaves += sum(bool(leaf.cubes) for leaf in part.merged.plans.values())
        for rank in part.merged.opaque:
            report.straight[rank] = merged.why_opaque.get(rank, "")


def build_accept(filters: Sequence[ClassicFilter], *, kind: Kind, linkage: Linkage | None = None) -> GeneratedSet:
    """Programs that find which filters take the frame: bit n of the mask is filters[n] (at most 64)."""
    if len(filters) > MAX_ACCEPT_FILTERS:
        raise FilterError(f"{len(filters)} accept filters; at most {MAX_ACCEPT_FILTERS} are allowed")
    started = time.perf_counter()
    masks: dict[ClassicFilter, int] = {}
    for bit, filt in enumerate(filters):
        masks[filt] = masks.get(filt, 0) | 1 << bit
    report = Report(rules=len(filters), method="chain")
    other = chain.take(list(linkage.part_slots)) if linkage else None
    programs = [
        chain.accept_program("accept", masks, kind=kind, vlan="inline", linkage=linkage, slot=None, other=other)
    ]
    if linkage:
        vlan: Vlan = "metadata" if kind == "tc" else "inline"
        programs.append(
            chain.accept_program(
                "accept_other", masks, kind=kind, vlan=vlan, linkage=linkage, slot=other, helper_only=kind == "xdp"
            )
        )
    _account(report, programs, 1)
    report.generate_s = time.perf_counter() - started
    return GeneratedSet(kind, tuple(programs), b"", report)


def _account(report: Report, programs: Sequence[LoadableProgram], ordinary: int) -> None:
    report.programs = len(programs)
    report.instructions = sum(p.instructions for p in programs[:ordinary])
    report.other_instructions = sum(p.instructions for p in programs[ordinary:])


def load_set(generated: GeneratedSet, linkage: Linkage | None = None, *, attach_type: int | None = None) -> LoadedSet:
    """Load every program of the set; DatapathError (TooComplexError) leaves nothing behind."""
    started = time.perf_counter()
    maps: dict[str, int] = {}
    if linkage:
        maps |= {**dict(linkage.host_maps), SCRATCH: linkage.scratch_fd, PROGRAMS: linkage.programs_fd}
    table_fd = loader.create_table(generated.tables) if generated.tables else None
    if table_fd is not None:
        maps[TABLES] = table_fd
    opened: list[int] = [] if table_fd is None else [table_fd]
    loaded: list[tuple[int | None, int]] = []
    try:
        for program in generated.programs:
            fd = loader.load_program(program, generated.kind, maps, attach_type)
            opened.append(fd)
            loaded.append((program.slot, fd))
    except BaseException:
        loader.close(*opened)
        raise
    generated.report.load_s = time.perf_counter() - started
    parts = tuple((slot, fd) for slot, fd in loaded[1:] if slot is not None)
    pairs = zip(generated.programs, loaded, strict=True)
    attached = tuple(fd for program, (_, fd) in pairs if program.name == _ATTACHED)
    return LoadedSet(loaded[0][1], parts, table_fd, generated.report, attached)


def load_classifier(
    filters: Sequence[ClassicFilter | None],
    *,
    kind: Kind,
    linkage: Linkage | None = None,
    cached: Linkage | None = None,
    merge: bool = True,
    attach_type: int | None = None,
) -> LoadedSet:
    """Build and load (see `build_classifier`).

    Where the verifier gives up, or takes too long, plainer forms are tried: rule by rule, apart from the core, in
    smaller programs. Rule by rule it follows each filter once and is soon through. The report says so, and what was
    found out is remembered: the same rules are loaded for XDP and for tc, and at every commit.
    """
    started, key = time.perf_counter(), tuple(filters)
    form = _forms.get(key, _Form())
    form = replace(form, merge=form.merge and merge)
    while True:
        host = linkage if linkage is None or form.joined else replace(linkage, host=None, attached=())
        generated = build_classifier(
            filters, kind=kind, linkage=host, cached=cached, merge=form.merge, part_jumps=form.jumps
        )
        try:
            loaded = load_set(generated, host, attach_type=attach_type)
        except DatapathError as error:
            plainer = form.plainer(generated.report, error, apart=linkage is None)
            if plainer is None:
                raise
            form = plainer
            continue
        loaded.report.load_s = time.perf_counter() - started - generated.report.generate_s
        loaded.report.refused = form.refused
        if form.too_complex:
            _forms[key] = form
            while len(_forms) > _REMEMBERED_FORMS:
                del _forms[next(iter(_forms))]
        return loaded


def load_accept(
    filters: Sequence[ClassicFilter],
    *,
    kind: Kind,
    linkage: Linkage | None = None,
    attach_type: int | None = None,
) -> LoadedSet:
    """Build and load the accept filters' programs."""
    return load_set(build_accept(filters, kind=kind, linkage=linkage), linkage, attach_type=attach_type)


def load_constant(host: Host, maps: dict[str, int], rank: int = NO_MATCH) -> int:
    """The program to attach to ports whose frames all match this rule (NO_MATCH: none), in its host; its descriptor,
    which the caller closes."""
    asm = Assembler()
    asm.mov(CTX, R1)
    asm.mov_imm(R0, rank)
    return loader.load_program(LoadableProgram(_ATTACHED, *host.around(asm.finish(), ()), None), "xdp", maps)


def forget() -> None:
    """Clear all caches of filters (to measure generation from scratch)."""
    with merge_module.lock:
        _compile.cache_clear()
        _forms.clear()
        _widened.cache_clear()
        classifier.prepare.cache_clear()
        merge_module.forget()
