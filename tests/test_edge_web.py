"""The page's server: what it answers, to whom, and that no viewer holds anything back."""

import contextlib
import json
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from web_results import Recorder, case, failure, result

from edge.analysis import Analysis
from edge.capture import Frame, SourceState
from edge.delivery import Sink, SinkPlan, SinkStatus
from edge.errors import SinkError
from edge.ledger import Ledger
from edge.overlay import DISCLAIMER, NORMAL_COLOUR, OTHER_COLOUR, POSITIVE_COLOUR
from edge.phantom import PhantomCase
from edge.sources import Picture
from edge.stream import Result, Stream, StreamStatus
from edge.web.access import Access
from edge.web.app import STATIC
from edge.web.server import WebSink

TOKEN = "a-token-of-the-tests"


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[tuple[WebSink, httpx.Client]]:
    """A sink on a free port, and a client that keeps cookies."""
    chosen: dict[str, Any] = {"port": 0, "temperature": lambda: 48.5} | options
    sink = WebSink(**chosen)
    try:
        with client_of(sink) as client:
            yield sink, client
    finally:
        sink.close()


def client_of(sink: WebSink) -> httpx.Client:
    """A client that keeps cookies; it knows of no proxy and needs no certificates."""
    return httpx.Client(base_url=f"http://127.0.0.1:{sink.port}", timeout=60, trust_env=False, verify=False)


@pytest.fixture(scope="module")
def plain() -> Iterator[WebSink]:
    """A page on loopback with a picture and a recorder, shared by tests that leave it as it is."""
    with serving(recorder=Recorder(), viewers=1000) as (sink, _):
        sink.write(result())
        yield sink


@pytest.fixture(scope="module")
def locked() -> Iterator[WebSink]:
    """The same behind a token."""
    with serving(token=TOKEN, viewers=1000) as (sink, _):
        sink.write(result())
        yield sink


def status(*, error: str | None = None, source: SourceState = SourceState.RUNNING) -> StreamStatus:
    sinks = (SinkStatus("dicom", 7, 2, 1, "the disk is full"),)
    return StreamStatus(source, None, 3, 0.1, Ledger().summary(), sinks, error)


def picture(
    client: httpx.Client, after: str = "", viewer: str = "tests", state: str = ""
) -> tuple[dict[str, Any], bytes]:
    """What a viewer gets: the JSON and the JPEG."""
    answer = client.get("/frame", params={"after": after, "viewer": viewer, "state": state})
    assert answer.status_code == 200, answer.text
    (length,) = struct.unpack(">I", answer.content[:4])
    return json.loads(answer.content[4 : 4 + length]), answer.content[4 + length :]


def decoded(jpeg: bytes) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return np.asarray(pixels, np.uint8)


def until(holds: Callable[[], bool], *, within_s: float = 60.0) -> None:
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "it did not come to hold"
        time.sleep(0.02)


# Pictures


def test_a_viewer_gets_the_newest_picture_with_what_was_found() -> None:
    with serving() as (sink, client):
        sink.write(result(1, of=case(1, "benign")))
        sink.write(result(2))
        told, jpeg = picture(client)
        assert np.abs(decoded(jpeg).astype(int) - case().pixels).mean() < 4
        assert (told["frame"]["number"], told["frame"]["outcome"], told["frame"]["reason"]) == (2, "live", "")
        assert told["frame"]["finding"]["decision"] == told["frame"]["finding"]["positive"] == "malignant"
        assert told["frame"]["finding"]["malignancy"] == pytest.approx(0.87)
        assert len(told["frame"]["finding"]["lesions"][0]["contour_px"]) > 20


def test_only_the_region_leaves_with_its_place_in_the_frame() -> None:
    with serving() as (sink, client):
        sink.write(result(margin=40))
        told, jpeg = picture(client)
        assert decoded(jpeg).shape == (240, 320)
        assert [told["frame"][key] for key in ("left", "top", "width", "height")] == [40, 40, 320, 240]


def test_a_colour_picture_stays_one() -> None:
    pixels = np.zeros((240, 320, 3), np.uint8)
    pixels[..., 2] = 200
    with serving() as (sink, client):
        sink.write(result(pixels=pixels))
        blue, _, red = decoded(picture(client)[1])[0, 0]
        assert red > 180 and blue < 20


def test_age_runs_from_capture_and_what_the_server_took_is_told() -> None:
    with serving() as (sink, client):
        sink.write(result(age_s=0.7))
        told, _ = picture(client)
        assert 700 <= told["age_ms"] < 60_000
        again, jpeg = picture(client, told["key"])
        assert jpeg == b"" and "frame" not in again
        assert again["handled_ms"] >= 400  # it waited for a picture


def test_a_viewer_that_waits_is_answered_when_a_picture_comes() -> None:
    with serving() as (sink, client):
        sink.write(result(1))
        told, _ = picture(client)
        timer = threading.Timer(0.1, sink.write, [result(2)])
        timer.start()
        again, jpeg = picture(client, told["key"])
        while not jpeg:  # a loaded machine may be late
            again, jpeg = picture(client, told["key"])
        timer.join()
        assert again["frame"]["number"] == 2 and jpeg
        assert again["key"] != told["key"]


def test_keys_of_another_run_are_not_taken_for_ones_own() -> None:
    with serving() as (first, client):
        first.write(result(1))
        key = picture(client)[0]["key"]
    with serving() as (second, client):
        second.write(result(1))
        assert picture(client, key)[1]


def test_a_rejected_picture_has_its_reason_and_no_finding() -> None:
    with serving() as (sink, client):
        sink.write(result(reason="too dark"))
        frame = picture(client)[0]["frame"]
        assert (frame["outcome"], frame["reason"], frame["finding"]) == ("rejected", "too dark", None)


def test_a_frozen_picture_has_its_reason_and_an_old_finding() -> None:
    with serving() as (sink, client):
        sink.write(result(reason="frozen", frozen_s=3.5))
        frame = picture(client)[0]["frame"]
        assert (frame["outcome"], frame["finding_age_ms"]) == ("frozen", 3500)
        assert frame["finding"]["decision"] == "malignant"


def test_a_failed_frame_changes_no_picture_and_is_told() -> None:
    with serving() as (sink, client):
        sink.write(result(1))
        key = picture(client)[0]["key"]
        sink.write(failure())
        until(lambda: picture(client)[0]["state"]["failure"] == "the engine refused the frame")
        assert picture(client)[0]["key"] == key


def test_the_state_is_told_once() -> None:
    with serving(status=status, info={"engine": "openvino"}, stale_s=2.5) as (sink, client):
        sink.write(result())
        until(lambda: bool(picture(client)[0]["state"]["rates"]))
        told, _ = picture(client)
        assert told["state"]["info"] == {"engine": "openvino"}
        assert told["state"]["stale_ms"] == 2500
        assert (told["state"]["temperature_c"], told["state"]["reconnects"]) == (48.5, 3)
        assert told["state"]["recording"] is None
        assert told["state"]["sinks"][0]["error"] == "the disk is full"
        assert (
            "state" not in picture(client, state=told["state_key"])[0]
            or picture(client)[0]["state_key"] != told["state_key"]
        )


# Who may ask


def test_a_loopback_page_needs_no_token(plain: WebSink) -> None:
    assert plain.token is None
    assert plain.url == f"http://127.0.0.1:{plain.port}/"
    with client_of(plain) as client:
        assert client.get("/").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "", "[", "10.0.0.7"])
def test_another_host_name_is_refused_on_loopback(plain: WebSink, host: str) -> None:
    with client_of(plain) as client:
        answer = client.get("/frame", headers={"host": host.format(port=plain.port)})
        assert answer.status_code == 421
        assert "localhost" in answer.text


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:{port}", "127.0.0.1:{port}", "LOCALHOST:{port}", "[::1]:{port}"]
)
def test_this_computer_s_names_are_taken(plain: WebSink, host: str) -> None:
    with client_of(plain) as client:
        assert client.get("/", headers={"host": host.format(port=plain.port)}).status_code == 200


def test_an_address_that_others_reach_has_a_token_of_its_own() -> None:
    with serving(host="0.0.0.0") as (sink, client), serving(host="0.0.0.0") as (other, _):
        assert sink.token is not None and len(sink.token) >= 32 and sink.token != other.token
        assert sink.url.endswith(f":{sink.port}/?token={sink.token}")
        assert client.get("/").status_code == 401
        assert client.get("/", params={"token": sink.token}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/page.js", "/frame", "/metrics", "/nothing", "/record"])
def test_nothing_but_health_is_told_without_the_token(locked: WebSink, path: str) -> None:
    with client_of(locked) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN[:-1]}, {"cookie": "edgekit=x"}):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401
            assert len(answer.content) < 200 and "token" in answer.text
        assert client.get("/", params={"token": TOKEN[:-1]}).status_code == 401
        assert set(client.get("/healthz").json()) == {"state", "age_s"}


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(locked: WebSink) -> None:
    with client_of(locked) as client:
        answer = client.get("/", params={"token": TOKEN})
        cookie = answer.headers["set-cookie"]
        assert answer.status_code == 200
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Secure" not in cookie
        assert picture(client)[1]  # by cookie
        assert client.get("/metrics").status_code == 200
        assert "set-cookie" not in client.get("/").headers


def test_a_bearer_may_ask_too(locked: WebSink) -> None:
    with client_of(locked) as client:
        assert client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_token_counts_in_the_address_of_the_page_only(locked: WebSink) -> None:
    with client_of(locked) as client:
        assert client.get("/metrics", params={"token": TOKEN}).status_code == 401


@pytest.mark.parametrize("token", ["", "short", "of-sixteen-chars;", "a token with blanks in it", "ä" * 20])
def test_a_token_that_a_cookie_cannot_carry_is_refused(token: str) -> None:
    with pytest.raises(SinkError, match="16 or more"):
        WebSink(port=0, token=token)


def test_another_site_may_not_ask_for_pictures(plain: WebSink) -> None:
    with client_of(plain) as client:
        assert client.get("/frame", headers={"sec-fetch-site": "cross-site"}).status_code == 403
        assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link to the page


def test_every_answer_has_the_headers_that_keep_it_to_itself(locked: WebSink) -> None:
    with client_of(locked) as client:
        client.get("/", params={"token": TOKEN})
        for path in (*STATIC, "/healthz", "/metrics", "/frame", "/nothing"):
            headers = client.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert not {"server", "access-control-allow-origin"} & set(headers)


GUESSES = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=60).map(
    lambda text: text.encode("latin-1")
)


@settings(deadline=None)
@given(
    host=GUESSES,
    authorization=GUESSES,
    cookie=GUESSES,
    origin=GUESSES,
    query=GUESSES,
    path=st.sampled_from(["/", "/frame"]),
)
def test_nothing_but_the_token_opens_the_page(
    host: bytes, authorization: bytes, cookie: bytes, origin: bytes, query: bytes, path: str
) -> None:
    sent: list[Any] = []

    async def inside(*_: object) -> None:
        raise AssertionError("it was let in")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read of a refused request")

    names = (b"host", b"authorization", b"cookie", b"origin")
    headers = list(zip(names, (host, authorization, b"edgekit-1=" + cookie, origin), strict=True))
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"token=" + query, "headers": headers}
    access = Access(inside, token=TOKEN, local=None, cookie="edgekit-1", secure=False)
    with pytest.raises(StopIteration):  # it waits for nothing, so that one step is all
        access(scope, receive, send).send(None)
    assert sent[0]["status"] == 401


# Recording


def test_the_page_starts_and_stops_a_recording() -> None:
    recorder = Recorder()
    with serving(recorder=recorder) as (sink, client):
        assert picture(client)[0]["state"]["recording"] is False
        own = {"origin": f"http://127.0.0.1:{sink.port}"}
        assert client.post("/record", json={"recording": True}, headers=own).json() == {"recording": True}
        assert recorder.recording and picture(client)[0]["state"]["recording"] is True
        assert client.post("/record", json={"recording": False}, headers=own).json() == {"recording": False}
        assert not recorder.recording


def test_a_recording_that_cannot_start_says_why() -> None:
    recorder = Recorder()
    recorder.full = True
    with serving(recorder=recorder, token=TOKEN) as (_, client):
        answer = client.post("/record", json={"recording": True}, headers={"authorization": f"Bearer {TOKEN}"})
        assert (answer.status_code, answer.text) == (409, "clip.mkv: the disk is full; make room\n")


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "https://evil@{own}.example", "http://["]
)
def test_only_the_page_itself_may_record(plain: WebSink, origin: str | None) -> None:
    with client_of(plain) as client:
        headers = {} if origin is None else {"origin": origin.format(own=f"127.0.0.1:{plain.port}")}
        assert client.post("/record", json={"recording": True}, headers=headers).status_code == 403
        assert picture(client)[0]["state"]["recording"] is False


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", 400), (b"[]", 400), (b'{"recording": 1}', 400), (b"\xff", 400), (b"x" * 2000, 413)],
    ids=["empty", "list", "number", "no text", "long"],
)
def test_a_bad_wish_to_record_is_refused(plain: WebSink, body: bytes, code: int) -> None:
    with client_of(plain) as client:
        own = {"origin": f"http://127.0.0.1:{plain.port}"}
        assert client.post("/record", content=body, headers=own).status_code == code
        assert client.get("/record").status_code == 405
        assert picture(client)[0]["state"]["recording"] is False


def test_a_run_that_cannot_record_says_so(locked: WebSink) -> None:
    with client_of(locked) as client:
        bearer = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/record", json={"recording": True}, headers=bearer).status_code == 404


# Health and metrics


def test_health_is_waiting_then_fresh_then_stale() -> None:
    with serving(stale_s=30) as (sink, client):
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()) == (503, {"state": "waiting", "age_s": None})
        sink.write(result(age_s=0))
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()["state"]) == (200, "fresh")
        sink.write(result(age_s=31))
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()["state"]) == (503, "stale")


def test_health_is_bad_while_the_run_has_an_error_and_does_not_tell_it() -> None:
    with serving(status=lambda: status(error="rtsp://name:password@scanner: gone")) as (sink, client):
        sink.write(result())
        until(lambda: client.get("/healthz").json()["state"] == "error")
        answer = client.get("/healthz")
        assert answer.status_code == 503 and "password" not in answer.text


def test_metrics_are_prometheus_text() -> None:
    with serving(status=status) as (sink, client):
        sink.write(result())
        picture(client)
        until(lambda: "edgekit_sink_lost_total" in client.get("/metrics").text)
        answer = client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = {family.name: family for family in text_string_to_metric_families(answer.text)}
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in families.values()
            for sample in family.samples
        }
        assert found["edgekit_viewers",] == 1
        assert found["edgekit_latency_seconds_count",] == 1
        assert 0.01 < found["edgekit_latency_seconds_sum",] < 60
        assert 0 < found["edgekit_result_age_seconds",] < 60
        assert found["edgekit_temperature_celsius",] == 48.5
        assert found["edgekit_reconnects_total",] == 3
        assert found["edgekit_sink_lost_total", "dicom"] == 2
        assert found["edgekit_sound",] == 0
        assert ("edgekit_frames_total", "dropped") in found


def test_metrics_count_results_where_there_is_no_status() -> None:
    with serving(temperature=lambda: None) as (sink, client):
        for one in (result(0), result(1), result(2, reason="dark"), failure(3)):
            sink.write(one)
        text = client.get("/metrics").text
        for outcome, count in {"processed": 2, "rejected": 1, "failed": 1, "dropped": 0}.items():
            assert f'edgekit_frames_total{{outcome="{outcome}"}} {count}.0' in text
        assert "temperature" not in text


# The page's files


def test_the_page_loads_nothing_from_elsewhere_and_says_what_it_is(plain: WebSink) -> None:
    with client_of(plain) as client:
        texts = {path: client.get(path).text for path in STATIC}
        assert DISCLAIMER in texts["/"]
        for path, text in texts.items():
            left = text.replace("http://www.w3.org/2000/svg", "")
            assert "http:" not in left and "https:" not in left, path
        for colour in (POSITIVE_COLOUR, NORMAL_COLOUR, OTHER_COLOUR):
            assert "#{2:02x}{1:02x}{0:02x}".format(*colour) in texts["/page.js"]


# As a sink of a run


class Sweep:
    """A source of pictures, one every 20 ms, until it is closed."""

    name = "sweep"
    live = False

    def __init__(self) -> None:
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Picture]:
        number = 0
        while not self._closed.wait(0.02):
            yield Picture(case().pixels, time_s=0.02 * number)
            number += 1

    def close(self) -> None:
        self._closed.set()


class Perfect:
    """An analyser that knows the phantom."""

    def analyse(self, frame: Frame) -> Analysis:
        shown = result(frame.number).found
        assert shown is not None
        now_ns = time.monotonic_ns()
        return replace(shown, captured_ns=frame.captured_ns, preprocessed_ns=now_ns, inferred_ns=now_ns)

    def close(self) -> None:
        pass


def test_a_run_shows_its_frames_and_its_figures() -> None:
    opened: list[WebSink] = []

    def page() -> Sink[Result[Analysis]]:
        opened.append(WebSink(port=0, status=stream.status, info={"source": "sweep"}))
        return opened[0]

    stream = Stream(Sweep, Perfect(), [SinkPlan("page", page)], policy="all")
    running = threading.Thread(target=stream.run)
    running.start()
    until(lambda: bool(opened))
    with client_of(opened[0]) as client:
        until(lambda: client.get("/healthz").status_code == 200)
        told, jpeg = picture(client)
        assert jpeg and told["frame"]["finding"]["decision"] == "malignant"
        until(lambda: picture(client)[0]["state"].get("source") == "running")
        until(lambda: 'edgekit_frames_total{outcome="processed"} 0.0' not in client.get("/metrics").text)
        stream.stop()
        running.join()
    assert stream.status().sound and stream.status().sinks[0].written > 0
    assert not opened[0]._thread.is_alive()


# Opening and closing


def test_a_taken_port_is_said_at_once() -> None:
    with serving() as (sink, _), pytest.raises(SinkError, match=rf"127\.0\.0\.1:{sink.port}: .*in use.*another port"):
        WebSink(port=sink.port)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "192.0.2.1"}, "Cannot assign"),
        ({"host": "no-such-host.invalid"}, "cannot listen"),
        ({"port": 70000}, "0 to 65535"),
        ({"port": -1}, "0 to 65535"),
        ({"key": "key.pem"}, "needs its certificate"),
        ({"certificate": "missing.pem"}, "missing.pem cannot be used .No such file"),
    ],
)
def test_what_cannot_work_is_said_at_once(options: dict[str, Any], said: str) -> None:
    before = threading.active_count()
    with pytest.raises(SinkError, match=said):
        WebSink(**(dict[str, Any](port=0) | options))
    assert threading.active_count() == before


def test_a_port_is_free_again_after_close() -> None:
    with serving() as (sink, client):
        client.get("/healthz")
    with serving(port=sink.port) as (again, _):
        assert again.port == sink.port


def test_close_may_come_at_once_and_twice_and_leaves_no_thread() -> None:
    before = threading.active_count()
    sink = WebSink(port=0)
    sink.close()
    sink.close()
    assert threading.active_count() == before


def test_a_server_that_ended_by_a_fault_is_said_by_write() -> None:
    def broken() -> StreamStatus:
        raise RuntimeError("no status")

    sink = WebSink(port=0, status=broken)
    until(lambda: not sink._thread.is_alive())
    with pytest.raises(SinkError, match="no status"):
        sink.write(result())
    sink.close()


def certificate(folder: Path, *, passphrase: str = "") -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    locked = ["-passout", f"pass:{passphrase}"] if passphrase else ["-nodes"]
    options = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-days",
        "1",
        "-subj",
        "/CN=edge",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    command = [openssl, "req", "-x509", *options, *locked, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def test_the_page_speaks_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    with serving(certificate=cert, key=key, token=TOKEN) as (sink, _):
        trusted = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(base_url=f"https://127.0.0.1:{sink.port}", verify=trusted) as client:
            answer = client.get("/", params={"token": TOKEN})
            assert answer.status_code == 200 and "; Secure" in answer.headers["set-cookie"]
            sink.write(result())
            assert picture(client)[1]
        assert sink.url.startswith("https://")


def test_a_locked_key_is_refused_without_a_question(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, passphrase="secret")
    with pytest.raises(SinkError, match=r"key\.pem cannot be used .* without a passphrase"):
        WebSink(port=0, certificate=cert, key=key)


# Many viewers, slow viewers


def test_one_viewer_too_many_is_told_so_and_may_come_when_another_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(viewers=2) as (sink, client):
        sink.write(result())
        for viewer in ("a", "b", "a"):
            picture(client, viewer=viewer)
        answer = client.get("/frame", params={"viewer": "c"})
        assert (answer.status_code, answer.text) == (503, "2 pages look already; close one of them\n")
        monkeypatch.setattr("edge.web.hub.VIEWER_S", 0.0)
        picture(client, viewer="c")


def large() -> PhantomCase:
    """A picture whose JPEG has several megabytes."""
    noise = np.random.default_rng(0).integers(0, 255, (1080, 1920), np.uint8)
    return PhantomCase(noise, np.zeros(noise.shape, np.bool_), "normal", 0)


def stalled(sink: WebSink) -> socket.socket:
    """A viewer that asks for pictures and never reads one."""
    viewer = socket.create_connection(("127.0.0.1", sink.port))
    viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    ask = f"GET /frame?viewer=stalled HTTP/1.1\r\nHost: 127.0.0.1:{sink.port}\r\n\r\n"
    viewer.sendall(ask.encode() * 200)
    return viewer


def test_a_viewer_that_stops_reading_holds_nothing_back() -> None:
    with serving(quality=100) as (sink, client):
        sink.write(result(0, of=large()))
        key = picture(client)[0]["key"]
        with contextlib.closing(stalled(sink)):
            until(lambda: sink._server.server_state.total_requests >= 2)
            time.sleep(0.5)
            took_s = []
            for number in range(1, 6):
                one = result(number)
                started_s = time.monotonic()
                sink.write(one)
                took_s.append(time.monotonic() - started_s)
                told, jpeg = picture(client, key)
                key = told["key"]
                assert told["frame"]["number"] == number and jpeg
            assert sorted(took_s)[2] < 2.0
            started_s = time.monotonic()
            sink.close()
            assert time.monotonic() - started_s < 5


def test_viewers_that_wait_do_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.web.hub.VIEWER_S", 60.0)
    with serving() as (sink, _):
        sink.write(result())
        ends: list[float] = []

        def look(viewer: str) -> None:
            with client_of(sink) as client, contextlib.suppress(httpx.HTTPError):
                key = ""
                while True:
                    key = picture(client, key, viewer)[0].get("key", key)
            ends.append(time.monotonic())

        threads = [threading.Thread(target=look, args=(str(n),)) for n in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: sink._hub.viewers() == 4)
        started_s = time.monotonic()
        sink.close()
        assert time.monotonic() - started_s < 5
        for thread in threads:
            thread.join()
        assert len(ends) == 4


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
def test_the_kernel_cuts_off_a_viewer_that_stopped_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.web.server.UNREAD_MS", 500)
    with serving(quality=100) as (sink, client):
        sink.write(result(0, of=large()))
        client.get("/healthz", headers={"connection": "close"})
        connections = sink._server.server_state.connections
        with contextlib.closing(stalled(sink)):
            until(lambda: sink._server.server_state.total_requests >= 2)
            until(lambda: not connections)


def test_parallel_viewers_cost_one_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.web import hub

    calls = []
    encode = hub.encode

    def counted(*given: Any) -> hub.Encoded:
        calls.append(given)
        time.sleep(0.1)
        return encode(*given)

    monkeypatch.setattr(hub, "encode", counted)
    with serving() as (sink, client):
        sink.write(result())
        assert not calls  # nobody looks
        threads = [threading.Thread(target=picture, args=(client, "", str(n))) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(calls) == 1
