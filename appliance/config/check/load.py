# SPDX-License-Identifier: GPL-2.0-only
"""From TOML text to `Config`, or to a list of all its errors.

Whatever the input, the only exception that leaves this module is ConfigError. The text is read table by table and key
by key, so that one run reports all errors, each with the table's name, the key and, where known, the line.
"""

from __future__ import annotations

import json
import re
import tomllib
import types
import typing
from contextlib import nullcontext
from pathlib import Path as FilePath
from typing import IO, Any, Final, Literal, TypeGuard

import msgspec

from appliance.config.check import verify
from appliance.config.schema import limits
from appliance.config.schema.model import (
    HOSTNAME_PATTERN,
    NAME_PATTERN,
    NAME_RULE,
    WINDOW_PATTERN,
    ZONE_PATTERN,
    Config,
    struct_fields,
)
from appliance.errors import ConfigError, FilterError, UnreachableError
from appliance.system.toml_lines import Lines, Path
from appliance.units import Duration, Size

BYTE_ORDER_MARK: Final = "\ufeff"  # some editors put it before UTF-8 text; TOML allows it (toml.io, 1.1)
_BAD: Final = object()  # stands for a value that was reported and cannot be used


def load(path: FilePath | str, filters: bool = True) -> Config:
    """Read and check a file. ConfigError for the first error, the others in its `also`."""
    text = read_text(path)
    return loads(text, str(path), filters)


def loads(text: str, source: str = "", filters: bool = True) -> Config:
    """As `load`, for a text that came from `source`."""
    config, errors = parse(text, source, filters)
    if config is None:
        errors[0].also = tuple(errors[1:])
        raise errors[0]
    return config


def check(text: str, source: str = "", filters: bool = True) -> list[ConfigError]:
    """All errors of a text; [] when it is good. `filters=False` does not check the pcap filters."""
    return parse(text, source, filters)[1]


def read_text(path: FilePath | str | IO[bytes]) -> str:
    """The text of a configuration file, or of one that is open; ConfigError when it cannot be read, is too large or is
    not UTF-8."""
    try:
        with open(path, "rb") if isinstance(path, FilePath | str) else nullcontext(path) as file:
            data = file.read(limits.MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError("file", f"cannot be read: {reason}", str(path)) from error
    if len(data) > limits.MAX_FILE:
        raise ConfigError("file", f"is larger than MAX_FILE = {limits.MAX_FILE} bytes", str(path))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError("file", f"is not UTF-8 text (line {line})", str(path)) from error


def parse(text: str, source: str = "", filters: bool = True) -> tuple[Config | None, list[ConfigError]]:
    """The configuration and no errors, or None and at least one error."""
    try:
        raw = read_toml(text, source)
    except ConfigError as error:
        return None, [error]
    reader = _Reader()
    config = reader.config(raw)
    findings = reader.findings
    if config is not None:
        findings = list(verify.findings(config, compiler() if filters else None))
    lines = Lines(text)
    errors = [finding.error(source, lines.find(finding.path)) for finding in findings]
    return (None if errors else config), errors


def from_data(raw: dict[str, Any], source: str = "") -> Config:
    """A configuration from tables that are data already, as tomllib gives them; ConfigError. Filters are not read."""
    reader = _Reader()
    config = reader.config(raw)
    findings = reader.findings if config is None else list(verify.findings(config))
    if config is None or findings:
        raise findings[0].error(source)
    return config


def read_toml(text: str, source: str = "") -> dict[str, Any]:
    """The plain data of a TOML text; ConfigError when it is not TOML."""
    try:
        return tomllib.loads(text.removeprefix(BYTE_ORDER_MARK))
    except RecursionError:
        raise ConfigError("syntax", "nested too deeply", source) from None
    except ValueError as error:  # TOMLDecodeError, and int() of far too many digits
        raise ConfigError("syntax", _syntax(str(error)), source) from error


def _syntax(message: str) -> str:
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if not found:
        return _one_line(message)
    place = f"line {found[2]}, column {found[3]}" if found[2] else "at the end"
    return f"{_one_line(found[1])} ({place})"


def _one_line(text: str) -> str:
    """A text that is safe to print: one line, no control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def compiler() -> verify.CompileFilter:
    """libpcap's compiler, imported only when a filter has to be checked: the rest works without libpcap."""

    def compile_filter(text: str, through: tuple[str, ...]) -> None:
        if "\0" in text:
            raise FilterError("a filter cannot contain a NUL character")
        try:
            from appliance.filter import compiler
        except (ImportError, OSError) as error:
            what = f"filters cannot be checked without libpcap (install libpcap0.8): {error}"
            raise UnreachableError(what) from error
        compiler.compile_filter(text, through=through)

    return compile_filter


class _Reader:
    """Turns tomllib's dictionaries into structs; what is wrong is collected in `findings`. Used for one text."""

    def __init__(self) -> None:
        self.findings: list[verify.Finding] = []

    def config(self, raw: dict[str, Any]) -> Config | None:
        tables = {field.encode_name: field.type for field in msgspec.structs.fields(Config)}
        values: dict[str, Any] = {}
        for name, value in raw.items():
            if name not in tables:
                what = "unknown table" if isinstance(value, dict | list) else "unknown key outside of any table"
                self._add(_bare(name), (name,), what + verify.hint(name, tables))
                continue
            kind = tables[name]
            if typing.get_origin(kind) is tuple:
                if _is_tables(value):
                    item = typing.get_args(kind)[0]
                    read = [self._struct(item, v, _label(name, v, i), (name, i)) for i, v in enumerate(value)]
                    values[name] = tuple(read)
                else:
                    self._add(name, (name,), f"is a list of tables: write [[{name}]], once for each")
            elif isinstance(value, dict):
                values[name] = self._struct(kind, value, name, (name,))
            else:
                self._add(name, (name,), f"is a single table: write [{name}]")
        return None if self.findings else Config(**values)

    def _add(self, where: str, path: Path, what: str) -> None:
        self.findings.append(verify.Finding(where, path, what))

    def _struct(self, cls: type[msgspec.Struct], raw: dict[str, Any], where: str, path: Path) -> object:
        before = len(self.findings)
        fields = struct_fields(cls)
        for key in raw:
            if key not in fields:
                self._add(f"{where}: {_bare(key)}", (*path, key), "unknown key" + verify.hint(key, fields))
        values = {}
        for key, field in fields.items():
            if key in raw:
                values[key] = self._value(field.type, raw[key], f"{where}: {key}", (*path, key))
            elif field.required:
                self._add(f"{where}: {key}", path, "is missing")
        return cls(**values) if len(self.findings) == before else _BAD

    def _value(self, kind: Any, raw: Any, where: str, path: Path) -> object:
        if typing.get_origin(kind) is types.UnionType:  # X | None: TOML has no null, so it is an X
            kind = next(arm for arm in typing.get_args(kind) if arm is not types.NoneType)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if isinstance(raw, dict):
                return self._struct(kind, raw, where, path)
            self._add(where, path, f"{_show(raw)} is not a table such as {{ key = value }}")
            return _BAD
        if typing.get_origin(kind) is tuple:
            if isinstance(raw, list):
                item = typing.get_args(kind)[0]
                return tuple(self._value(item, v, f"{where} {i + 1}", (*path, i)) for i, v in enumerate(raw))
            self._add(where, path, f"{_show(raw)} is not a list such as [ ... ]")
            return _BAD
        try:
            return scalar(kind, raw)
        except (ValueError, OverflowError) as error:
            self._add(where, path, _one_line(str(error)))
            return _BAD


def scalar(kind: Any, raw: Any) -> object:
    """One value of the type that a field asks for, checked; ValueError says what was expected."""
    if kind is Duration or kind is Size:
        if not isinstance(raw, str):
            example = '"100ms" or "2s"' if kind is Duration else '"512M" or "2G"'
            raise ValueError(f"{_show(raw)} has no unit: write text such as {example}")
        if len(raw) > 40:
            raise ValueError(f"{_show(raw)} is too long for a number with a unit")
        return Duration.parse(raw) if kind is Duration else Size.parse(raw)
    if typing.get_origin(kind) is Literal:
        words = typing.get_args(kind)
        if raw not in words:
            close = verify.hint(raw, words) if isinstance(raw, str) else ""
            tail = close if "did you mean" in close else ""
            raise ValueError(f"{_show(raw)} is not one of {', '.join(words)}{tail}")
        return str(raw)
    if isinstance(raw, str) and "\0" in raw:
        raise ValueError("text cannot contain a NUL character")
    pattern, least, most = _bounds(kind)
    try:
        value = msgspec.convert(raw, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(_explain(raw, pattern, least, most, str(error))) from None
    if pattern and not re.fullmatch(pattern.strip("^$"), str(value)):  # `$` alone lets a newline through
        raise ValueError(_explain(raw, pattern, least, most, ""))
    return typing.cast(object, value)


def _bounds(kind: Any) -> tuple[str, int | float | None, int | float | None]:
    """(pattern, least, most) of an annotated type."""
    for meta in getattr(kind, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta):
            return meta.pattern or "", meta.ge, meta.le
    return "", None, None


_PATTERNS = {
    NAME_PATTERN: f"a name: {NAME_RULE}",
    HOSTNAME_PATTERN: "a host name: letters, digits and - in the middle, at most 63",
    WINDOW_PATTERN: 'a window such as "sun 03:00-04:00", or "03:00-04:00" for every day',
    ZONE_PATTERN: "a time zone: an area and a city, as Europe/Berlin, or UTC",
}


def _explain(raw: Any, pattern: str, least: int | float | None, most: int | float | None, message: str) -> str:
    shown = _show(raw)
    if isinstance(raw, int) and not isinstance(raw, bool) and least is not None:
        if raw < least:
            return f"{shown} is too small: at least {least}"
        if most is not None and raw > most:
            return f"{shown} is too large: at most {most}"
    if isinstance(raw, str) and pattern:
        return f"{shown} is not {_PATTERNS[pattern]}"
    if found := re.match(r"Expected `(\w+)`.*, got `(\w+)`", message):
        words = {"str": "text in quotes", "int": "a whole number", "bool": "true or false", "float": "a number"}
        return f"{shown} is not {words.get(found[1], found[1])}"
    return f"{shown}: {message}"


def _show(raw: Any) -> str:
    """A value as it would be written in the file, shortened to fit a line."""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, dict):
        return "a table"
    if isinstance(raw, list):
        return "a list"
    if isinstance(raw, int) and abs(raw) >= 10**30:
        return "so large a number"
    text = json.dumps(raw, ensure_ascii=False) if isinstance(raw, str) else str(raw)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _bare(key: str) -> str:
    """A key as it may be written: bare, or in quotes."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key) else _show(key)


def _is_tables(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _label(table: str, raw: dict[str, Any], index: int) -> str:
    """`rule web`, or `rule 3` (counted from 1) where the name itself is missing or wrong."""
    name = raw.get("name")
    good = isinstance(name, str) and re.fullmatch(NAME_PATTERN.strip("^$"), name)
    return f"{table} {name}" if good else f"{table} {index + 1}"
