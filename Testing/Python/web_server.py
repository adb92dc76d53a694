"""A real HTTP server on this machine that misbehaves as it is told."""

from __future__ import annotations

import http.server
import re
import ssl
import threading
import time

BLOCK = 2**14


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at any path, with ranges. Each request takes the next of `behaviours`, after the last "serve".

    "cut": two fifths of what is asked for, then the connection ends; "stall": the head, then nothing until `close`;
    "unmeasured": all, without Content-Length; "whole": all, although a range is asked for; "other": another content;
    "redirect": to /elsewhere; a number: that status. `bytes_per_s` throttles; `requests` records (path, Range).
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.behaviours: list[str | int] = []
        self.bytes_per_s = 0.0
        self.requests: list[tuple[str, str | None]] = []
        self.released = threading.Event()
        self.scheme = "http"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def encrypt(self, certificate, key) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.scheme = "https"

    def handle_error(self, request, client_address):
        """Clients that go away are part of the tests."""

    def close(self) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):  # noqa: N802 - http.server's own name
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        behaviour = self.server.behaviours.pop(0) if self.server.behaviours else "serve"
        if isinstance(behaviour, int):
            self.send_error(behaviour)
            return
        if behaviour == "redirect":
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            return
        content, start = self.server.content, 0
        if behaviour == "other":
            content = bytes(len(content))
        if asked and behaviour != "whole":
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                self.send_error(416)
                return
        content = content[start:]
        self.send_response(206 if start else 200)
        if behaviour != "unmeasured":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if behaviour == "stall":
            self.server.released.wait(60)
            return
        self._send(content[: len(content) * 2 // 5] if behaviour == "cut" else content)

    def _send(self, content):
        for begin in range(0, len(content), BLOCK):
            block = content[begin : begin + BLOCK]
            self.wfile.write(block)
            if self.server.bytes_per_s:
                time.sleep(len(block) / self.server.bytes_per_s)

    def log_message(self, *arguments):
        """Silent."""
