"""Small image sets, and web servers on loopback that send them or misbehave."""

import gzip
import hashlib
import http.server
import os
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from initguide.datasets._idx import FILES


def idx_bytes(values):
    return struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes()


def small_files(seed=0, train=30, test=20):
    """Return the contents of four small idx files, each label present."""
    rng = np.random.default_rng(seed)
    contents = []
    for count in (train, test):
        contents.append(idx_bytes(rng.integers(0, 256, (count, 28, 28), np.uint8)))
        contents.append(idx_bytes((np.arange(count) % 10).astype(np.uint8)))
    return dict(zip(FILES, contents, strict=True))


def write_raw(root, files, kind="MNIST"):
    raw = root / kind / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (raw / name).write_bytes(content)
    return raw


def holds(data, files):
    """Whether a data set holds exactly these files' images and labels."""
    pairs = (
        (data.train_inputs * 255, FILES[0]),
        (data.train_targets, FILES[1]),
        (data.test_inputs * 255, FILES[2]),
        (data.test_targets, FILES[3]),
    )
    return all(
        tensor.round().byte().numpy().tobytes() == files[name][-tensor.numel() :]
        for tensor, name in pairs
    )


def leftovers(cache):
    """Return the files in the cache, locks aside."""
    paths = (path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(str(path.relative_to(cache)) for path in paths)


@dataclass
class Mirror:
    """A web server that counts what it is asked for. ``harm`` befalls the files of images."""

    files: dict
    harm: str = ""
    delay: float = 0.0
    host: str = "127.0.0.1"
    requests: list = field(default_factory=list)
    url: str = ""

    def archives(self):
        return {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in self.files.items()}

    def md5(self):
        return {name: hashlib.md5(content).hexdigest() for name, content in self.archives().items()}


def start(mirror):
    """Serve a mirror in a thread; return the server."""
    archives = mirror.archives()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.lstrip("/")
            mirror.requests.append(name)
            time.sleep(mirror.delay)
            body = archives[name]
            harm = mirror.harm if "images" in name else ""
            with suppress(OSError):  # a client that left early is no news
                getattr(self, harm or "whole")(body)
                self.wfile.flush()

        def whole(self, body, length=None, status=200):
            self.send_response(status)
            self.send_header("Content-Length", str(length or len(body)))
            self.end_headers()
            self.wfile.write(body)

        def refuse(self, body):
            self.send_error(403)

        def break_down(self, body):
            self.send_error(500)

        def reset(self, body):
            self.whole(body[:100], len(body))
            self.wfile.flush()
            linger = struct.pack("ii", 1, 0)  # no farewell but a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            os.close(self.connection.detach())

        def cut(self, body):
            self.whole(body[:100], len(body))

        def stall(self, body):
            self.whole(body[:100], len(body))
            self.wfile.flush()
            self.server.released.wait(30)

        def say_nothing(self, body):
            self.server.released.wait(30)

        def crawl(self, body):
            self.whole(b"", len(body))
            self.drip(body)

        def crawl_in_the_header(self, body):
            self.drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000)

        def drip(self, content):
            for i in range(len(content)):
                self.wfile.write(content[i : i + 1])
                self.wfile.flush()
                if self.server.released.wait(0.01):
                    return

        def never_end(self, body):
            self.send_response(200)
            self.end_headers()
            while not self.server.released.is_set():
                self.wfile.write(b"\0" * 2**16)

        def show_a_login(self, body):
            self.whole(b"<html>Please accept our terms</html>")

        def redirect_in_a_circle(self, body):
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def talk_nonsense(self, body):
            self.wfile.write(b"220 smtp.example ready\r\n")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.released = threading.Event()
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    mirror.url = f"http://{mirror.host}:{server.server_port}/"
    return server
