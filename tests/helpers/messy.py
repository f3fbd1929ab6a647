"""A folder as it is found in practice: clips, uncommon clips, and files that are broken in ten ways."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from torch import Tensor

from vidiff.data.clips import ClipDataset
from vidiff.data.doctor.examine import Case, examine
from vidiff.data.doctor.record import Record
from vidiff.data.workers import Begin, at_once
from vidiff.store.place import Place

FRAMES, SIDE = 8, 32


def write_clip(
    path: Path,
    number: int = 0,
    frames: int = FRAMES,
    height: int = SIDE,
    width: int = SIDE,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    keys: int = 4,
) -> Path:
    """A pattern that moves; `times` are of the frames, in ms. An mp4 has its table in front."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pattern = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
    options = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream(codec, rate=8, options={"x264-params": f"keyint={keys}:bframes=0:threads=1"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for n in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(pattern, 2 * n, axis=1).copy(), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[n], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def write_twice(source: Path, path: Path) -> Path:
    """The same packets, one of them at the time of the one before: PyAV cannot tell the two by their times."""
    with av.open(str(source)) as file, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(file.streams.video[0])
        packets = [packet for packet in file.demux(video=0) if packet.size]
        packets[5].pts = packets[5].dts = packets[4].pts
        for packet in packets:
            packet.stream = stream
            copy.mux(packet)
    return path


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        for n in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * n
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def without_table(whole: bytes) -> bytes:
    """As a recording that was cut off: the table, which is written last, is not there."""
    table, content = whole.index(b"moov") - 4, whole.index(b"mdat") - 4
    return whole[:table] + whole[content:-200]


def with_edit_list(whole: bytes) -> bytes:
    """As a phone trims a clip: the table lists all frames, and the last three are said not to be shown."""
    place = whole.index(b"elst") + 12
    shown = int.from_bytes(whole[place : place + 4], "big") * (FRAMES - 3) // FRAMES
    return whole[:place] + shown.to_bytes(4, "big") + whole[place + 4 :]


def lacking(whole: bytes) -> bytes:
    """Another clip, of MPEG-4, whose last packet but one says that its frame is not coded: none comes out."""
    with TemporaryDirectory() as folder:
        content = bytearray(write_clip(Path(folder) / "x.mp4", codec="mpeg4").read_bytes())
    begin = content.rindex(b"\x00\x00\x01\xb6", 0, content.rindex(b"\x00\x00\x01\xb6"))
    content[begin + 5] &= 0x7F  # vop_coded, after 8 bits of type and time
    return bytes(content)


def damaged(whole: bytes) -> bytes:
    """All frames are another's."""
    begin = whole.index(b"mdat") + 4
    return whole[:begin] + np.random.default_rng(0).bytes(len(whole) - begin)


MATRICES = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}  # clockwise


def turned(whole: bytes, degrees: int = 90) -> bytes:
    """With a matrix by which players turn it."""
    straight = b"".join(n.to_bytes(4, "big") for n in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    a, b, c, d = ((n << 16) % (1 << 32) for n in MATRICES[degrees])
    matrix = (a, b, 0, c, d, 0, SIDE << 16, 0, 1 << 30)
    place = whole.index(straight, whole.index(b"tkhd"))
    return whole[:place] + b"".join(n.to_bytes(4, "big") for n in matrix) + whole[place + 36 :]


BREAK: dict[str, Callable[[bytes], bytes]] = {  # key of PROBLEMS -> what is made of a whole mp4
    "empty": lambda whole: b"",
    "blank": lambda whole: bytes(len(whole)),
    "text": lambda whole: "<html><body>404: nicht gefunden, schöne Grüße</body></html>".encode(),
    "no moov": without_table,
    "truncated": lambda whole: whole[: len(whole) * 2 // 3],
    "unknown": lambda whole: np.random.default_rng(1).bytes(3000),
    "frame count": lacking,
    "damaged": damaged,
}
WAYS = (*BREAK, "no video", "hang")


def write_broken(path: Path, way: str, whole: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if way == "no video":
        write_sound(path)
    else:
        path.write_bytes(BREAK.get(way, bytes)(whole))
    return path


def write_uncommon(folder: Path) -> dict[Path, str]:
    """Clips that can be read, each with what the doctor is to note."""
    late = [0, 100, 130, 400, 450, 700, 720, 900]
    found = {
        write_clip(folder / "rate.mp4", times=late): "variable frame rate",
        write_clip(folder / "deep.mp4", pixels="yuv420p10le"): "deep colour",
        write_clip(folder / "odd.webm", height=31, width=33, codec="libvpx-vp9"): "odd size",
        write_clip(folder / "turned.mp4"): "rotated",
        write_clip(folder / "header.avi", codec="mpeg4"): "header",
    }
    path = folder / "turned.mp4"
    path.write_bytes(turned(path.read_bytes()))
    path = folder / "header.avi"
    content = bytearray(path.read_bytes())
    for name, place in ((b"avih", 24), (b"strh", 40)):  # numbers of frames
        begin = content.index(name) + place
        content[begin : begin + 4] = (99).to_bytes(4, "little")
    path.write_bytes(content)
    return found


def look(case: Case, begin: Begin = at_once) -> Record:
    """`examine`, by a decoder that hangs, or crashes, on certain files, as C code does: no signal handler runs."""
    stem = Path(case.place.name).stem
    if stem.startswith("hang"):
        ctypes.PyDLL(None).pause()
    if stem.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return examine(case, begin)


class Hanging(ClipDataset):
    """Clips, by a decoder that hangs, or crashes, on certain files."""

    def decode(self, place: Place, indices: Sequence[int], size: tuple[int, int] | None, decoder: str) -> Tensor:
        path = Path(place.name)
        if path.stem.startswith("hang"):
            path.with_suffix(f".{os.getpid()}").touch()
            ctypes.PyDLL(None).pause()
        if path.stem.startswith("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if path.stem.startswith("starved"):
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory runs out
        return super().decode(place, indices, size, decoder)
