# SPDX-License-Identifier: GPL-2.0-only
"""Typed access to the datapath's maps.

A `Map` owns its file descriptor until `close`. `Table` is the same for an array map that user space maps as memory:
a write is a single store, without a system call.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator, Mapping
from ctypes import c_uint32, c_uint64
from typing import Any, Generic, TypeVar

from appliance.system import libbpf

K = TypeVar("K", bound=Any)
V = TypeVar("V", bound=Any)


class Map(Generic[K, V]):
    """A map with keys of ctypes type K and values of ctypes type V."""

    def __init__(self, name: str, fd: int, key: type[K], value: type[V]) -> None:
        self.name, self.fd, self._key, self._value = name, fd, key, value

    def close(self) -> None:
        """Close the descriptor; the map continues to exist if it is pinned or used."""
        os.close(self.fd)

    def size(self) -> int:
        """How many entries it has room for."""
        return int(libbpf.info(self.fd, libbpf.MapInfo()).max_entries)

    def _as_key(self, key: K | int) -> Any:
        return c_uint32(key) if isinstance(key, int) else key

    def get(self, key: K | int) -> V | None:
        """The value, or None."""
        value: V = self._value()
        error = libbpf.library().bpf_map_lookup_elem(self.fd, ctypes.byref(self._as_key(key)), ctypes.byref(value))
        if error == -errno.ENOENT:
            return None
        libbpf.check(f"map {self.name}", error)
        return value

    def per_cpu(self, key: int) -> list[V]:
        """The values of all CPUs (per-CPU maps only; the kernel rounds each up to 8 bytes, ours are)."""
        values = (self._value * libbpf.possible_cpus())()
        number = c_uint32(key)
        libbpf.check(
            f"map {self.name}",
            libbpf.library().bpf_map_lookup_elem(self.fd, ctypes.byref(number), ctypes.byref(values)),
        )
        return list(values)

    def set(self, key: K | int, value: V | int) -> None:
        """Write one value."""
        data = self._value(value) if isinstance(value, int) else value
        libbpf.check(
            f"map {self.name}",
            libbpf.library().bpf_map_update_elem(
                self.fd, ctypes.byref(self._as_key(key)), ctypes.byref(data), libbpf.BPF_ANY
            ),
        )

    def zero_per_cpu(self, key: int) -> None:
        """Set the values of all CPUs to zero."""
        values = (self._value * libbpf.possible_cpus())()
        number = c_uint32(key)
        libbpf.check(
            f"map {self.name}",
            libbpf.library().bpf_map_update_elem(self.fd, ctypes.byref(number), ctypes.byref(values), libbpf.BPF_ANY),
        )

    def set_all(self, values: Mapping[int, V]) -> None:
        """Write many values of an array by one system call."""
        if not values:
            return
        size = len(values)
        keys = (c_uint32 * size)(*values)
        data = (self._value * size)(*values.values())
        count = c_uint32(size)
        libbpf.check(
            f"map {self.name}",
            libbpf.library().bpf_map_update_batch(
                self.fd, ctypes.byref(keys), ctypes.byref(data), ctypes.byref(count), None
            ),
        )

    def first(self, count: int) -> list[V]:
        """The first `count` values of an array by one system call."""
        keys, values = (c_uint32 * count)(), (self._value * count)()
        got, cursor = c_uint32(count), c_uint32()
        error = libbpf.library().bpf_map_lookup_batch(
            self.fd,
            None,
            ctypes.byref(cursor),
            ctypes.byref(keys),
            ctypes.byref(values),
            ctypes.byref(got),
            None,
        )
        if error != -errno.ENOENT:  # reported at the array's end, with all entries before it
            libbpf.check(f"map {self.name}", error)
        return list(values[: got.value])

    def delete(self, key: K | int) -> None:
        """Remove a key; does nothing if it does not exist."""
        error = libbpf.library().bpf_map_delete_elem(self.fd, ctypes.byref(self._as_key(key)))
        if error != -errno.ENOENT:
            libbpf.check(f"map {self.name}", error)

    def items(self, at_once: int = 4096) -> Iterator[tuple[K, V]]:
        """All entries of a hash map. Concurrent changes may be seen or not."""
        cursor = c_uint32()
        start: Any = None
        while True:
            keys, values = (self._key * at_once)(), (self._value * at_once)()
            count = c_uint32(at_once)
            error = libbpf.library().bpf_map_lookup_batch(
                self.fd,
                ctypes.byref(start) if start is not None else None,
                ctypes.byref(cursor),
                ctypes.byref(keys),
                ctypes.byref(values),
                ctypes.byref(count),
                None,
            )
            if error == -errno.ENOSPC:
                at_once *= 2
                continue
            if error not in (0, -errno.ENOENT):
                raise libbpf.fail(f"map {self.name}", error)
            for i in range(count.value):
                key = self._key.from_buffer_copy(keys, i * ctypes.sizeof(self._key))
                yield key, self._value.from_buffer_copy(values, i * ctypes.sizeof(self._value))
            if error:
                return
            start = c_uint32(cursor.value)


class Table:
    """An array map of 8-byte words as memory: `words[index * words_each + field]`."""

    def __init__(self, fd: int, entries: int, value: type[ctypes.Structure]) -> None:
        self._each = ctypes.sizeof(value) // 8
        size = -(-entries * ctypes.sizeof(value) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._words = (c_uint64 * (entries * self._each)).from_buffer(self._memory)

    def read(self, index: int, field: int = 0) -> int:
        """One word."""
        return int(self._words[index * self._each + field])

    def write(self, index: int, value: int, field: int = 0) -> None:
        """One word, in one store."""
        self._words[index * self._each + field] = value

    def close(self) -> None:
        """Unmap."""
        del self._words
        self._memory.close()
