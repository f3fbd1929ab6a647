"""Video files of many kinds of encoding, and their frames as they come in order."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def encode(
    path: Path,
    frames: int = 90,
    codec: str = "libx264",
    size: tuple[int, int] = (48, 64),
    pixels: str = "yuv420p",
    times: Callable[[int], int] | None = None,
    **options: str,
) -> Path:
    """A pattern that moves, over a scene that changes: with B-frames, each of which differs from its neighbours."""
    random = np.random.default_rng(frames)
    pattern = np.kron(random.integers(0, 255, (2 * size[0] // 8 + 1, 2 * size[1] // 8 + 1, 3)), np.ones((8, 8, 1)))
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options={"threads": "1", **options})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for n in range(frames):
            scene = np.roll(pattern, (n // 3, 2 * n), (0, 1))[: size[0], : size[1]].astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(scene), format="rgb24")
            if times:
                frame.pts, frame.time_base = times(n), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def in_order(path: Path) -> np.ndarray:
    """All frames as they come out of FFmpeg, from the first: `(f, h, w, 3)`."""
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def times_in_order(path: Path) -> list[float]:
    with av.open(str(path)) as file:
        return [frame.time for frame in file.decode(video=0)]


def x264(keys: int, *more: str) -> dict[str, str]:
    return {"x264-params": ":".join([f"keyint={keys}:min-keyint={keys}:scenecut=0:bframes=3", *more])}


FILES: dict[str, dict[str, Any]] = {
    "g12.mp4": x264(12),
    "g60.mp4": x264(60),
    "g250.mp4": {"frames": 270, **x264(250)},
    "pyramid-none.mp4": x264(30, "b-pyramid=none"),
    "sixteen.mp4": x264(40, "bframes=16", "b-adapt=0", "ref=16"),
    "open.mp4": x264(20, "open-gop=1"),
    "refresh.mp4": {"intra-refresh": "1", "g": "20", "bf": "0"},
    "varying.mp4": {"times": lambda n: 40 * n + 13 * (n % 3) + 500 * (n // 40), **x264(20)},
    "late.mkv": {"times": lambda n: 7000 + 40 * n, **x264(20)},
    "late.mp4": {"times": lambda n: 7000 + 40 * n, **x264(20)},
    "open.mkv": x264(20, "open-gop=1"),
    "stream.ts": x264(20),
    "mpeg2.mpg": {"codec": "mpeg2video", "g": "15", "bf": "2"},
    "mpeg4.avi": {"codec": "mpeg4", "g": "12"},
    "reordered.avi": {"codec": "mpeg4", "g": "12", "bf": "2"},
    "vp9.webm": {"frames": 40, "codec": "libvpx-vp9", "g": "15", "cpu-used": "8", "deadline": "realtime"},
    "vp8.webm": {
        "frames": 40,
        "codec": "libvpx",
        "g": "15",
        "auto-alt-ref": "1",
        "lag-in-frames": "10",
        "cpu-used": "8",
    },
    "open-hevc.mp4": {
        "codec": "libx265",
        "preset": "ultrafast",
        "x265-params": "keyint=20:min-keyint=20:open-gop=1:bframes=4:scenecut=0:log-level=none:pools=none",
    },
    "intra.mov": {"frames": 30, "codec": "mjpeg", "pixels": "yuvj420p"},
    "fragments.mp4": {"frames": 60, **x264(20)},
}


def packed(source: Path, to: Path) -> Path:
    """MPEG-4 with B-frames in AVI as DivX 5 packs it: a B-frame lies in the packet of the frame that it refers to, and
    a few bytes stand for it in its own place. FFmpeg knows such a file by the name of its encoder."""
    with av.open(str(source)) as file:
        stream = file.streams.video[0]
        packets = [bytes(packet) for packet in file.demux(stream) if packet.size]
        written: list[bytes] = []
        for packet in packets:
            begins = packet.index(b"\0\0\1\xb6")
            kind = packet[begins + 4] >> 6  # 0 is a frame by itself, 2 one between two others
            if kind == 2:
                written[-1] += packet[begins:]
                packet = b"\0\0\1\xb6\x56\x5a\x80"
            elif not written:
                packet = packet[:begins] + b"\0\0\1\xb2DivX503b1393p" + packet[begins:]
            written.append(packet)
        with av.open(str(to), "w") as made:
            copy = made.add_stream_from_template(stream)
            for place, data in enumerate(written):
                moved = av.Packet(data)
                moved.stream, moved.dts, moved.pts = copy, place, place
                moved.time_base = Fraction(1, 25)
                moved.is_keyframe = not place
                made.mux(moved)
    return to
