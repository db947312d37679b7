import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from igtl_messages_sent import COLOUR, GREY, SCALARS, image_body, image_message, message

from edge.errors import SourceError
from edge.sources import FrameSource, Picture, igtl
from edge.sources.igtl import IgtlSource, open_igtl
from edge.sources.igtl_messages import MAX_BODY_BYTES, MAX_SKIPPED_BYTES, Header, crc64, parse_header, parse_image
from edge.sources.opening import SourceOptions

# The TRANSFORM message that the OpenIGTLink library tests itself with (igtl_test_data_transform.h).
KNOWN_MESSAGE = bytes.fromhex(
    "0001 5452414e53464f524d000000 4465766963654e616d6500000000000000000000 00000000499602d2 0000000000000030"
    "f6dd2b8eb4df6dd2"
    "bf7473cd3e4959e6be63dd98be4959e63e12491b3f7852d63e63dd983f7852d6bdc830ae42383660419bc46742383660"
)


@contextmanager
def sent(*parts: bytes, over: bool = True, **settings_: Any) -> Iterator[tuple[IgtlSource, socket.socket]]:
    """A source that reads `parts`, and the sender's end of its connection; `over`: nothing more will come."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = threading.Thread(target=_send, args=(ours, parts, over))
        writer.start()
        source = IgtlSource(theirs, "igtl://probe", **settings_)
        try:
            yield source, ours
        finally:
            source.close()
            writer.join()


def _send(connection: socket.socket, parts: tuple[bytes, ...], over: bool) -> None:
    try:
        for part in parts:
            connection.sendall(part)
        if over:
            connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the reader had enough


def pictures(*parts: bytes, **settings_: Any) -> list[Picture]:
    """Every picture of the parts, up to the sender's going away."""
    found = []
    with sent(*parts, **settings_) as (source, _), pytest.raises(SourceError, match="the sender went away"):
        for picture in source:
            found.append(picture)
    return found


def refusal(*parts: bytes, **settings_: Any) -> str:
    with sent(*parts, **settings_) as (source, _), pytest.raises(SourceError) as caught:
        list(source)
    text = str(caught.value)
    assert "\n" not in text and text.startswith("igtl://probe: ")
    return text


# -- the CRC ------------------------------------------------------------------------------------------------------------


def test_crc_is_that_of_the_openigtlink_library_and_of_the_catalogue() -> None:
    assert crc64(KNOWN_MESSAGE[58:]) == 0xF6DD2B8EB4DF6DD2
    assert crc64(b"123456789") == 0x6C40DF5F0B497347  # CRC-64/ECMA-182 in the catalogue of parametrised CRC algorithms
    assert crc64(b"") == 0


@given(st.binary(max_size=200))
def test_crc_equals_the_division_bit_by_bit(data: bytes) -> None:
    remainder = 0
    for byte in data:
        remainder ^= byte << 56
        for _ in range(8):
            remainder = (remainder << 1) ^ (0x142F0E1EBA9EA3693 if remainder >> 63 else 0)
    assert crc64(data) == remainder


def test_known_message_has_a_header_that_says_what_it_is() -> None:
    header = parse_header(KNOWN_MESSAGE[:58])
    assert (header.kind, header.device, header.body_bytes, header.version) == ("TRANSFORM", "DeviceName", 48, 1)
    assert header.timestamp_s == pytest.approx(0x499602D2 / 2**32)


def test_grey_image_comes_with_its_spacing_in_the_order_rows_columns() -> None:
    (picture,) = pictures(image_message(spacing_mm=(0.2, 0.1)))
    assert np.array_equal(picture.pixels, GREY)
    assert picture.spacing_mm == pytest.approx((0.2, 0.1))


def test_colour_image_comes_as_bgr() -> None:
    (picture,) = pictures(image_message(COLOUR))
    assert np.array_equal(picture.pixels, COLOUR[:, :, ::-1])


@pytest.mark.parametrize("side_mm", [1.0, 0.0, float("nan"), float("inf")])
def test_spacing_that_no_scanner_has_is_not_known(side_mm: float) -> None:
    (picture,) = pictures(image_message(spacing_mm=(side_mm, side_mm)))
    assert picture.spacing_mm is None


@pytest.mark.parametrize("order", "<>")
def test_sixteen_bits_keep_their_high_byte_in_either_byte_order(order: str) -> None:
    wide = (GREY.astype(np.uint16) * 256 + 99).astype(f"{order}u2")
    (picture,) = pictures(image_message(wide))
    assert np.array_equal(picture.pixels, GREY)


@pytest.mark.parametrize("kind", sorted(SCALARS))
@pytest.mark.parametrize("order", "<>")
def test_every_scalar_type_is_shown_through_its_window(kind: str, order: str) -> None:
    values = np.linspace(-20, 120, 24 * 32).reshape(24, 32)
    values = (np.abs(values) if kind[0] == "u" else values).astype(order + kind)
    (picture,) = pictures(image_message(values), window=(0.0, 100.0))
    expected = 255.0 * np.clip(values.astype(np.float64), 0.0, 100.0) / 100.0
    assert np.abs(picture.pixels - expected).max() <= 0.501


def test_values_that_are_no_numbers_do_not_spoil_a_picture() -> None:
    values = np.full((16, 16), 0.5, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    (picture,) = pictures(image_message(values), window=(0.0, 1.0))
    assert picture.pixels[0, :3].tolist() == [0, 255, 0]
    assert picture.pixels[1, 1] == 128


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "u4", "f4", "f8"])
def test_type_of_unknown_range_is_refused_and_told_how_to_give_it(kind: str) -> None:
    assert "?window=0,255" in refusal(image_message(GREY.astype(f"<{kind}")))


@pytest.mark.parametrize("size", [(1, 32, 24), (32, 1, 24), (32, 24, 1)])
def test_picture_may_lie_in_any_two_axes(size: tuple[int, int, int]) -> None:
    (picture,) = pictures(image_message(size=size))
    assert np.array_equal(picture.pixels, GREY)


@pytest.mark.parametrize("version", [2, 3])
def test_extended_header_and_metadata_are_read_past(version: int) -> None:
    index = struct.pack(">H HHI", 1, 4, 3, 5)
    extended = struct.pack(">HHII 4x", 16, len(index), 9, 77)  # longer than today's: a later version may be
    body = extended + image_body(GREY) + index + b"Depth" + b"45mm"
    (picture,) = pictures(message("IMAGE", body, version=version))
    assert np.array_equal(picture.pixels, GREY)


def test_time_is_the_senders_from_the_first_picture_on() -> None:
    parts = [image_message(time_s=time_s) for time_s in (0.0, 1.7e9, 1.7e9 + 0.25, 0.0, 1.7e9 + 1.5)]
    assert [picture.time_s for picture in pictures(*parts)] == [None, 0.0, 0.25, None, 1.5]


def test_other_messages_are_read_past_whatever_their_checksum() -> None:
    others = [
        KNOWN_MESSAGE,
        message("STATUS", b"\0\1" + bytes(28)),
        message("STRING", b"\0\3\0\2ok", crc=1),
        message("STT_IMAGE", b""),
        message("NDARRAY", bytes(700_000), crc=0),
    ]
    assert len(pictures(*others, image_message(), *others, image_message())) == 2


def test_only_the_named_device_is_shown() -> None:
    parts = [image_message(device="Volume", size=(8, 8, 12)), image_message(COLOUR, device="Probe")]
    (picture,) = pictures(*parts, device="Probe")
    assert picture.pixels.shape == (24, 32, 3)


def test_without_a_name_the_first_device_stays() -> None:
    found = pictures(image_message(device="A"), image_message(COLOUR, device="B"), image_message(device="A"))
    assert [picture.pixels.ndim for picture in found] == [2, 2]


# -- what is wrong ------------------------------------------------------------------------------------------------------


def test_damaged_picture_is_refused() -> None:
    whole = bytearray(image_message())
    whole[-1] ^= 1
    assert "checksum" in refusal(bytes(whole))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"size": (64, 24, 1)}, "768 bytes of pixels"),
        ({"size": (0, 24, 1)}, "768 bytes of pixels"),
        ({"size": (0, 0, 0), "data": b""}, "0 bytes of pixels"),
        ({"size": (65535, 65535, 65535)}, "768 bytes of pixels"),
        ({"data": GREY.tobytes()[:-1]}, "767 bytes of pixels"),
        ({"data": GREY.tobytes() + b"\0"}, "769 bytes of pixels"),
        ({"size": (8, 8, 12)}, "a volume of 12 slices"),
        ({"components": 4}, "4 components"),
        ({"components": 0}, "0 components"),
        ({"scalar": 99}, "scalar type 99"),
        ({"order": 3}, "byte order 3"),
        ({"offset": (1, 0, 0)}, "a part of an image"),
        ({"part": (16, 24, 1)}, "a part of an image"),
    ],
)
def test_body_that_contradicts_itself_is_refused_by_name(changed: dict[str, Any], told: str) -> None:
    text = refusal(image_message(**changed))
    assert told in text and "IMAGE message of 'Probe'" in text


@pytest.mark.parametrize("body", [b"", bytes(5), image_body(GREY)[:71]])
def test_body_that_is_too_short_is_refused(body: bytes) -> None:
    assert "too few for an image" in refusal(message("IMAGE", body))


@pytest.mark.parametrize(
    "extended", [b"", bytes(11), struct.pack(">HHII", 11, 0, 0, 0), struct.pack(">HHII", 12, 9, 2**32 - 1, 0)]
)
def test_extended_header_that_does_not_fit_is_refused(extended: bytes) -> None:
    assert "extended header" in refusal(message("IMAGE", extended, version=2))


@pytest.mark.parametrize(
    ("kind", "claimed"), [("IMAGE", MAX_BODY_BYTES + 1), ("IMAGE", 2**64 - 1), ("POLYDATA", MAX_SKIPPED_BYTES + 1)]
)
def test_length_of_gigabytes_is_refused_before_anything_is_read(kind: str, claimed: int) -> None:
    head = bytearray(message(kind, b""))
    head[42:50] = struct.pack(">Q", claimed)
    assert f"claims {claimed} bytes" in refusal(bytes(head), over=False)


def test_a_name_cannot_steer_the_terminal_that_shows_it() -> None:
    head = bytearray(message("\x1b[2JPOLY", b""))
    head[42:50] = struct.pack(">Q", MAX_SKIPPED_BYTES + 1)
    assert "\ufffd[2JPOLY message" in refusal(bytes(head), over=False)


def test_peer_that_speaks_otherwise_is_found_out() -> None:
    assert "not an OpenIGTLink message" in refusal(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + bytes(40))


@pytest.mark.parametrize("length", [1, 57, 58, 500])
def test_half_a_message_and_then_silence_ends_in_an_error(length: int) -> None:
    started_s = time.monotonic()
    assert "half a message" in refusal(image_message()[:length], over=False, read_timeout_s=0.1)
    assert time.monotonic() - started_s < 30.0


@pytest.mark.parametrize("length", [1, 58, 500])
def test_half_a_message_and_then_the_end_is_an_error(length: int) -> None:
    assert "in the middle of a message" in refusal(image_message()[:length])


def test_message_that_drips_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(igtl, "MESSAGE_S", 0.1)
    drops = image_message()
    with sent(over=False, read_timeout_s=5.0) as (source, sender):
        stop = threading.Event()

        def drip() -> None:
            for start in range(len(drops)):
                if stop.wait(0.01):
                    return
                sender.sendall(drops[start : start + 1])

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(SourceError, match="a message took longer"):
                list(source)
        finally:
            stop.set()
            thread.join()


def test_message_in_small_pieces_is_whole() -> None:
    whole = image_message()
    (picture,) = pictures(*(whole[start : start + 7] for start in range(0, len(whole), 7)))
    assert np.array_equal(picture.pixels, GREY)


def test_silence_between_messages_is_waited_through() -> None:
    with sent(image_message(), over=False, read_timeout_s=0.05) as (source, sender):
        found = iter(source)
        next(found)
        later = threading.Timer(0.3, sender.sendall, (image_message(COLOUR),))
        later.start()
        assert next(found).pixels.ndim == 3
        later.join()


@pytest.mark.parametrize("begun", [b"", image_message()[:100]])
def test_close_from_another_thread_ends_an_iteration_that_waits(begun: bytes) -> None:
    with sent(image_message(), begun, over=False) as (source, _):
        found: list[Picture] = []

        def read() -> None:
            for picture in source:
                found.append(picture)

        thread = threading.Thread(target=read)
        thread.start()
        deadline_s = time.monotonic() + 60.0
        while not found and time.monotonic() < deadline_s:
            time.sleep(0.01)
        source.close()
        thread.join(60.0)
        assert not thread.is_alive()
        assert len(found) == 1
        source.close()


# -- fuzzing ------------------------------------------------------------------------------------------------------------


@st.composite
def damaged_messages(draw: st.DrawFn) -> bytes:
    """One or two messages, with a few bytes changed; the checksum is made right again, so that the parser is reached."""
    pixels = draw(st.sampled_from([GREY, COLOUR, GREY.astype(">u2"), GREY.astype("<f4")]))
    body = bytearray(image_body(pixels))
    version = draw(st.sampled_from([1, 1, 2, 3]))
    if version > 1:
        body = bytearray(struct.pack(">HHII", 12, 2, 0, 0)) + body + bytes(2)
    for _ in range(draw(st.integers(0, 3))):
        body[draw(st.integers(0, min(len(body), 100) - 1))] = draw(st.integers(0, 255))
    whole = bytearray(message("IMAGE", bytes(body[: draw(st.integers(0, len(body)))]), version=version))
    if draw(st.booleans()):
        whole[draw(st.integers(0, 57))] = draw(st.integers(0, 255))
    return bytes(whole) + draw(st.sampled_from([b"", image_message()]))


@settings(max_examples=100, deadline=None)
@given(data=st.one_of(st.binary(max_size=300), damaged_messages()), window=st.sampled_from([None, (0.0, 255.0)]))
def test_any_bytes_give_pictures_or_a_source_error(data: bytes, window: tuple[float, float] | None) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)  # fits the buffers of the connection
        ours.shutdown(socket.SHUT_WR)
        source = IgtlSource(theirs, "igtl://probe", window=window)
        with pytest.raises(SourceError):
            for picture in source:
                assert picture.pixels.size <= len(data)
        source.close()


@settings(max_examples=100, deadline=None)
@given(body=st.binary(max_size=200), version=st.integers(1, 3))
def test_any_body_is_an_image_or_a_source_error(body: bytes, version: int) -> None:
    try:
        image = parse_image(Header(version, "IMAGE", "Probe", None, len(body), crc64(body)), body)
    except SourceError:
        return
    assert 0 < image.pixels.size <= len(body)


# -- the address and real peers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "igtl://",
        "igtl://:18944",
        "igtl://host:port",
        "igtl://host:99999",
        "igtl://host/path",
        "igtl://host?devices=A",
        "igtl://host?device=A&device=B",
        "igtl://host?window=5",
        "igtl://host?window=5,5",
        "igtl://host?window=0,nan",
        "igtl://[::1",
        "http://host",
    ],
)
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SourceError, match=r"igtl://|once|window") as caught:
        open_igtl(url)
    assert str(caught.value).startswith(url)


def test_sender_that_is_not_there_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"igtl://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(SourceError, match=f"{url}: cannot be reached"):
            open_igtl(url, SourceOptions(open_timeout_s=1.0))


def test_host_without_a_name_is_an_error_not_a_traceback() -> None:
    with pytest.raises(SourceError, match="cannot be reached"):
        open_igtl(f"igtl://{'a' * 70}.invalid")


PEER = """
import sys, time
import numpy as np
import pyigtl
server = pyigtl.OpenIGTLinkServer(port=0, local_server=True)
print(server.server_address[1], flush=True)
matrix = np.diag([0.1, 0.2, 1.0, 1.0])
while not server.is_connected():
    time.sleep(0.01)
for number in range(12):
    pixels = np.random.default_rng(number).integers(0, 256, (1, 48, 64) if number % 2 else (1, 48, 64, 3), np.uint8)
    image = pyigtl.ImageMessage(pixels, matrix, device_name="Image_Reference", timestamp=1.7e9 + number / 16)
    image.header_version = 1 + number % 3 // 2
    image.metadata = {"Depth": "45"} if image.header_version > 1 else {}
    server.send_message(pyigtl.TransformMessage(np.eye(4), device_name="ProbeToReference"), wait=False)
    server.send_message(pyigtl.StringMessage("freeze", device_name="Text"), wait=False)
    server.send_message(image, wait=False)
sys.stdin.read()
"""


def test_pyigtl_server_is_received_picture_by_picture() -> None:
    pytest.importorskip("pyigtl")
    # In a process of its own: its constructor takes over the signals, and its threads do not end.
    with subprocess.Popen([sys.executable, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as peer:
        assert peer.stdin is not None and peer.stdout is not None
        try:
            port = int(peer.stdout.readline())
            source: FrameSource = open_igtl(
                f"igtl://127.0.0.1:{port}?device=Image_Reference",
                SourceOptions(open_timeout_s=60.0, read_timeout_s=60.0),
            )
            found = []
            for picture in source:
                found.append(picture)
                if len(found) == 12:
                    break
            source.close()
        finally:
            peer.kill()
    assert source.live
    for number, picture in enumerate(found):
        shape = (48, 64) if number % 2 else (48, 64, 3)
        pixels = np.random.default_rng(number).integers(0, 256, (1, *shape), np.uint8)[0]
        assert np.array_equal(picture.pixels, pixels if number % 2 else pixels[:, :, ::-1])
        assert picture.time_s == pytest.approx(number / 16, abs=1e-6)
        assert picture.spacing_mm == pytest.approx((0.2, 0.1))


def test_sender_that_dies_is_an_error_that_the_stream_can_act_upon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = open_igtl(f"igtl://127.0.0.1:{server.getsockname()[1]}")
        peer, _ = server.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, as of a crash
        peer.close()
        with pytest.raises(SourceError, match=r"the connection broke|the sender went away"):
            list(source)
        source.close()
