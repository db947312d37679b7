"""A sender of MJPEG over HTTP on loopback, with the faults of one."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np


def jpeg(index: int) -> bytes:
    """A picture that tells its number by its grey."""
    pixels = np.random.default_rng(index).integers(0, 12, (96, 128, 3), dtype=np.uint8) + np.uint8(20 + 10 * index)
    return bytes(cv2.imencode(".jpg", pixels)[1])


class Sender(ThreadingHTTPServer):
    """An MJPEG server. then: what it does after `count` pictures: "close", "half" and close, "half stall", "stall"."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Answer)
        self.count, self.rate, self.then, self.kind = 12, 50.0, "close", "multipart/x-mixed-replace; boundary=frame"
        self.lengths = True
        self.answered = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://me:secret@127.0.0.1:{self.server_port}/live.mjpg?token=secret"

    def stop(self) -> None:
        self.done.set()
        self.shutdown()
        self.server_close()
        self.thread.join()


class _Answer(BaseHTTPRequestHandler):
    server: Sender

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.server.answered += 1
        self.send_response(200)
        self.send_header("Content-Type", self.server.kind)
        self.end_headers()
        try:
            for index in range(self.server.count):
                self.part(jpeg(index % 20))
                if self.server.done.wait(1 / self.server.rate):
                    return
            if "half" in self.server.then:
                whole = jpeg(self.server.count % 20)
                self.part(whole, whole[: len(whole) // 2])
            if "stall" in self.server.then:
                self.server.done.wait(60.0)
        except OSError:
            pass  # the reader has left

    def part(self, whole: bytes, sent: bytes | None = None) -> None:
        length = f"Content-Length: {len(whole)}\r\n" if self.server.lengths else ""
        head = f"--frame\r\nContent-Type: image/jpeg\r\n{length}\r\n".encode()
        self.wfile.write(head + (whole + b"\r\n" if sent is None else sent))
        self.wfile.flush()
