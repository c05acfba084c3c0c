# SPDX-License-Identifier: GPL-2.0-only
"""A long HTTP download across the link; every byte is checked.

The server generates the body from a seed at a steady rate, so that the download lasts through a fault; the client
generates the same body, compares, and reports where and how long it stalled. One TCP connection from beginning to end:
a reset connection is a broken download. `Download` owns the processes of both.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import http.server
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.host import Host

BLOCK = 16384
PORT = 8077
PATIENCE_S = 120.0


def blocks(seed: int, size: int) -> Iterator[bytes]:
    """The body: `size` bytes generated from the seed; no two blocks are equal."""
    for number in range((size + BLOCK - 1) // BLOCK):
        block = hashlib.shake_128(f"{seed}/{number}".encode()).digest(BLOCK)
        yield block[: min(BLOCK, size - number * BLOCK)]


def checksum(seed: int, size: int) -> str:
    digest = hashlib.sha256()
    for block in blocks(seed, size):
        digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class DownloadResult:
    whole: bool
    bytes: int
    longest_stall_ms: float
    error: str


class Handler(http.server.BaseHTTPRequestHandler):
    """GET /SEED/SIZE/RATE: SIZE bytes at RATE bytes a second."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        try:
            seed, size, rate = (int(part) for part in self.path.strip("/").split("/"))
        except ValueError:
            self.send_error(400, "ask for /SEED/SIZE/RATE")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        start, sent = time.monotonic(), 0
        for block in blocks(seed, size):
            wait = start + sent / rate - time.monotonic() if rate else 0.0
            if wait > 0:
                time.sleep(wait)
            self.wfile.write(block)
            sent += len(block)

    def log_message(self, *_: Any) -> None:
        """Log nothing: the result contains everything."""


def fetch(address: str, port: int, seed: int, size: int, rate: int) -> DownloadResult:
    """Download once and compare; a broken transfer raises nothing, the result describes it."""
    connection = http.client.HTTPConnection(address, port, timeout=PATIENCE_S)
    digest, done, longest = hashlib.sha256(), 0, 0
    try:
        connection.request("GET", f"/{seed}/{size}/{rate}")
        response = connection.getresponse()
        last = time.monotonic_ns()
        while data := response.read1(BLOCK):
            now = time.monotonic_ns()
            longest, last = max(longest, now - last), now
            digest.update(data)
            done += len(data)
    except (OSError, http.client.HTTPException) as error:
        return DownloadResult(False, done, longest / 1e6, f"{type(error).__name__}: {error}")
    finally:
        connection.close()
    whole = done == size and digest.hexdigest() == checksum(seed, size)
    return DownloadResult(whole, done, longest / 1e6, "" if whole else f"{done} of {size} bytes, or not the right ones")


class Download:
    """A running download from `server` to `client`; starts at once, `wait` returns its result."""

    def __init__(
        self, client: Host, server: Host, size: int, *, rate: int = 0, seed: int = 1, port: int = PORT
    ) -> None:
        self._client, self._server = client, server
        self._server_process = self._start(server, "serve", server.ipv4, str(port))
        assert self._server_process.stdout is not None
        if self._server_process.stdout.readline().strip() != "serving":
            raise RuntimeError(f"the HTTP server on {server.ipv4} port {port} did not start")
        arguments = [server.ipv4, str(port), "--seed", str(seed), "--size", str(size), "--rate", str(rate)]
        self._process = self._start(client, "fetch", *arguments)

    @staticmethod
    def _start(host: Host, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-m", "simulator.download", *arguments]
        process: subprocess.Popen[str] = host.popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        return process

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout: float = 300.0) -> DownloadResult:
        """Wait for the end; TimeoutError if it takes longer than `timeout` seconds."""
        try:
            output, _ = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"the download is still running after {timeout:g} s") from error
        finally:
            self.close()
        return DownloadResult(**json.loads(output))

    def close(self) -> None:
        self._client.end(self._process)
        self._server.end(self._server_process)


def main() -> None:
    parser = argparse.ArgumentParser(prog="simulator.download", description=__doc__)
    parser.add_argument("what", choices=("serve", "fetch"))
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=1 << 20, help="bytes")
    parser.add_argument("--rate", type=int, default=0, help="bytes a second, 0 = as fast as possible")
    options = parser.parse_args()
    if options.what == "serve":
        server = http.server.ThreadingHTTPServer((options.address, options.port), Handler)
        server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        print("serving", flush=True)
        server.serve_forever()
    else:
        found = fetch(options.address, options.port, options.seed, options.size, options.rate)
        print(json.dumps(found.__dict__), flush=True)


if __name__ == "__main__":
    main()
