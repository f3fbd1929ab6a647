from __future__ import annotations

import os
import signal
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vidiff.store.error import VideoError
from vidiff.video.reader import VideoReader, read_image, read_metadata, read_video
from vidiff.video.writer import FASTEST, FASTEST_OF, SLOWEST, VideoWriter, grid, sheet, write_image, write_video

FILES = ["clip.mp4", "clip.mov", "clip.mkv", "clip.webm", "clip.gif"]
METADATA = {"seed": 3, "label": "grün", "nested": {"steps": [1, 2]}, "long": "x" * 1000}


def smooth(frames: int, height: int, width: int) -> Tensor:
    t, y, x = torch.meshgrid(*(torch.arange(n) for n in (frames, height, width)), indexing="ij")
    return torch.stack([torch.sin(x / 9 + t / 5), 0.8 * torch.cos(y / 9 + t / 7), 0.5 * torch.sin((x + y) / 13)])


def numbered(frames: int, height: int = 32, width: int = 48) -> Tensor:
    """Frame i is of one grey, which tells its number: 8 i / 255."""
    return (torch.arange(frames) * 8 / 127.5 - 1).view(1, -1, 1, 1).expand(3, frames, height, width)


def numbers(video: Tensor) -> list[int]:
    """The numbers of the frames, read from the grey in their middle."""
    height, width = video.shape[2:]
    return ((video[:, :, height // 2, width // 2].mean(0) + 1) * 127.5 / 8).round().int().tolist()


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10(((a - b) / 2).square().mean()))


@pytest.mark.parametrize(("name", "least"), [(name, 28 if name == "clip.gif" else 35) for name in FILES])
def test_what_is_written_is_read(tmp_path: Path, name: str, least: float) -> None:
    video = smooth(20, 64, 96)
    write_video(tmp_path / name, video, fps=10, metadata=METADATA)
    with VideoReader(tmp_path / name) as reader:
        assert (reader.frames, reader.size) == (20, (64, 96))
        assert reader.fps == pytest.approx(10)
        assert psnr(reader.read(), video) > least
    assert read_metadata(tmp_path / name) == METADATA


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_the_rate_that_it_was_given(tmp_path: Path, name: str) -> None:
    for fps in (SLOWEST, FASTEST_OF.get(Path(name).suffix, FASTEST)):
        write_video(tmp_path / name, smooth(3, 16, 16), fps=fps)
        with VideoReader(tmp_path / name) as reader:
            assert reader.fps == pytest.approx(fps) and reader.frames == 3


@pytest.mark.parametrize("name", FILES)
def test_frames_come_in_the_order_asked_for(tmp_path: Path, name: str) -> None:
    write_video(tmp_path / name, numbered(30))
    assert numbers(read_video(tmp_path / name)) == list(range(30))
    wanted = [29, 0, 7, 7, 8, 3]
    assert numbers(read_video(tmp_path / name, wanted)) == wanted
    assert numbers(read_video(tmp_path / name, range(2, 30, 5))) == [2, 7, 12, 17, 22, 27]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("frames", [1, 5])
def test_still_and_single_frames_are_counted(tmp_path: Path, name: str, frames: int) -> None:
    write_video(tmp_path / name, torch.zeros(3, frames, 16, 16))
    assert read_video(tmp_path / name).shape == (3, frames, 16, 16)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
def test_odd_sizes_are_padded_by_one(tmp_path: Path, name: str) -> None:
    video = smooth(6, 33, 47)
    write_video(tmp_path / name, video)
    found = read_video(tmp_path / name)
    assert found.shape == (3, 6, 34, 48)
    assert psnr(found[..., :33, :47], video) > 33
    assert psnr(found[..., 33, :47], video[..., 32, :]) > 30  # the last row again


@pytest.mark.parametrize("width", [2, 4, 6, 8, 12, 16, 24, 32, 48, 96, 144, 50, 64])
def test_every_width_is_read(tmp_path: Path, width: int) -> None:
    """At most of these widths the bytes of decord's padded rows divide by the width."""
    video = smooth(3, 40, width)
    write_video(tmp_path / "clip.mp4", video)
    found = read_video(tmp_path / "clip.mp4", [2, 1])
    assert psnr(found, video[:, [2, 1]]) > 32
    write_video(tmp_path / "wide.mp4", smooth(3, 40, 200))
    assert read_video(tmp_path / "wide.mp4", [2, 1], size=(20, width)).shape == (3, 2, 20, width)


def test_decoder_resizes(tmp_path: Path) -> None:
    video = smooth(4, 64, 128)
    write_video(tmp_path / "clip.mp4", video)
    small = torch.nn.functional.interpolate(video, size=(32, 64), mode="area")
    assert psnr(read_video(tmp_path / "clip.mp4", size=(32, 64)), small) > 33
    with VideoReader(tmp_path / "clip.mp4") as reader:
        assert reader.read([0], (32, 64)).shape[-2:] == (32, 64)
        assert reader.size == (64, 128)
        assert reader.read([0]).shape[-2:] == (64, 128)


def test_pixels_are_rounded_clamped_and_kept_in_png(tmp_path: Path) -> None:
    values = torch.arange(256).view(1, 1, 16, 16) / 127.5 - 1
    video = values.expand(3, 2, 16, 16) + 0.49 / 127.5  # just not the next level
    video = torch.cat([video, video.new_full((3, 1, 16, 16), 9), video.new_full((3, 1, 16, 16), -9)], dim=1)
    write_video(tmp_path / "new" / "frames", video, metadata=METADATA)
    paths = sorted((tmp_path / "new" / "frames").iterdir())
    assert [path.name for path in paths] == [f"{i:06d}.png" for i in range(4)]
    found = torch.stack([read_image(path) for path in paths], dim=1)
    assert torch.equal(found[:, :2], values.expand(3, 2, 16, 16))
    assert torch.equal(found[:, 2:, 0, 0], torch.tensor([[1.0, -1.0]] * 3))
    assert read_metadata(tmp_path / "new" / "frames") == METADATA


def test_writing_in_parts_is_writing_at_once(tmp_path: Path) -> None:
    video = smooth(12, 32, 32)
    write_video(tmp_path / "whole.mp4", video)
    with VideoWriter(tmp_path / "parts.mp4") as writer:
        for part in video.split([1, 5, 6], dim=1):
            writer.write(part)
    assert (tmp_path / "parts.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


@pytest.mark.parametrize("name", [name for name in FILES if name != "clip.gif"])
def test_colours_are_tagged(tmp_path: Path, name: str) -> None:
    """And those are the colours that come back: of a grey and of strong colours, to 3 of 255 levels."""
    levels = torch.tensor([[128, 128, 128], [223, 135, 79], [30, 200, 120], [250, 10, 10], [10, 20, 240]])
    video = (levels / 127.5 - 1).T[:, :, None, None].expand(3, 5, 32, 48)
    write_video(tmp_path / name, video, crf=4)
    with av.open(str(tmp_path / name)) as file:
        frame = next(file.decode(video=0))
        assert frame.colorspace in (5, 6)  # both are BT.601's matrix
        assert (frame.color_range, frame.color_primaries, frame.color_trc) == (1, 1, 1)  # limited, BT.709, BT.709
        assert frame.format.name == "yuv420p"
    for decoder in ("pyav", "decord"):
        with VideoReader(tmp_path / name, decoder=decoder) as reader:
            assert np.abs(reader.pixels()[:, 16, 24].astype(int) - levels.numpy()).max() <= 3


@pytest.mark.parametrize("name", FILES)
def test_same_frames_same_bytes_in_every_kind(tmp_path: Path, name: str) -> None:
    for folder in ("a", "b"):
        write_video(tmp_path / folder / name, smooth(9, 33, 47), metadata=METADATA)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def encoders() -> list[int]:
    """The processes of FFmpeg that this one has started, dead ones that nobody has asked for among them."""
    stats = [stat.read_text().rpartition(")") for stat in Path("/proc").glob("[0-9]*/stat")]
    return [int(name.split()[0]) for name, _, rest in stats if "ffmpeg" in name and int(rest.split()[1]) == os.getpid()]


@pytest.mark.faults
@pytest.mark.parametrize("interrupted", [False, True])
def test_no_encoder_is_left_behind(tmp_path: Path, interrupted: bool) -> None:
    """Neither by an error nor by Ctrl-C, which comes while frames are written."""

    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(3):
            error = KeyboardInterrupt if interrupted else ZeroDivisionError
            with pytest.raises(error), VideoWriter(tmp_path / "clip.mp4") as writer:
                writer.write(torch.rand(3, 2, 256, 256))
                assert len(encoders()) == 1
                if interrupted:
                    signal.setitimer(signal.ITIMER_REAL, 0.05)
                while True:
                    writer.write(torch.rand(3, 2, 256, 256))
                    _ = interrupted or 1 / 0
            assert not encoders()
            assert not list(tmp_path.iterdir())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.faults
def test_an_encoder_that_dies_is_named(tmp_path: Path) -> None:
    complaint = r"clip\.mp4: cannot be written, .*Broken pipe"
    with pytest.raises(VideoError, match=complaint), VideoWriter(tmp_path / "clip.mp4") as writer:
        writer.write(torch.rand(3, 2, 64, 64))
        os.kill(encoders()[0], signal.SIGKILL)
        for _ in range(100):
            writer.write(torch.rand(3, 2, 64, 64))
    assert not encoders()
    assert not list(tmp_path.iterdir())


def test_same_frames_same_bytes(tmp_path: Path) -> None:
    """x264's macroblock tree alone would make about one of five files differ."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    away = torch.stack([(x - 10 - 0.7 * t).square() + (y - 50 + 0.6 * t).square() for t in range(64)])
    video = torch.stack([torch.sigmoid(9 - away.sqrt()) * level for level in (0.2, 0.4, 1.8)]) - 0.9
    for _ in range(20):
        write_video(tmp_path / "clip.mp4", video)
        (tmp_path / "first.mp4").exists() or (tmp_path / "clip.mp4").rename(tmp_path / "first.mp4")
    assert (tmp_path / "clip.mp4").read_bytes() == (tmp_path / "first.mp4").read_bytes()


@pytest.mark.parametrize("name", [*FILES, "frames"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_writing_leaves_nothing_new(tmp_path: Path, name: str, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with VideoWriter(tmp_path / name) as writer:
            writer.write(numbered(4))
            raise error

    with pytest.raises(error):
        interrupted()
    assert not list(tmp_path.iterdir())
    write_video(tmp_path / name, numbered(3))
    with pytest.raises(error):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    left = tmp_path / name
    assert (len(list(left.iterdir())) if left.is_dir() else read_video(left).shape[1]) == 3


def test_frames_lost_by_the_encoder_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(VideoError, match=r"clip.mp4: 4 frames written, but 3 read back"),
        VideoWriter(tmp_path / "clip.mp4") as writer,
    ):
        writer.write(numbered(3))
        monkeypatch.setattr(writer._sink, "add", lambda frame: None)
        writer.write(numbered(1))
    assert not list(tmp_path.iterdir())


def test_a_folder_of_frames_is_replaced_and_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    write_video(f"{folder}/", numbered(5))
    write_video(folder, numbered(2))
    assert sorted(path.name for path in folder.iterdir()) == ["000000.png", "000001.png"]
    (folder / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds notes.txt, not only frames"):
        write_video(folder, numbered(2))
    with pytest.raises(ValueError, match="is a folder; choose a file name"):
        write_video(folder.rename(tmp_path / "folder.mp4"), numbered(2))
    assert len(list((tmp_path / "folder.mp4").iterdir())) == 3


@pytest.mark.parametrize(
    ("video", "options", "message"),
    [
        (
            torch.zeros(3, 2, 8, 8),
            {"path": "clip.avi"},
            "cannot write .avi files; use .mp4, .mov, .mkv, .webm, .gif, or a path that ends in",
        ),
        (
            torch.zeros(3, 2, 8, 8),
            {"metadata": {"x": "x" * 100_000}},
            "the metadata has 100009 characters as JSON",
        ),
        (
            torch.zeros(3, 2, 8, 8, dtype=torch.uint8),
            {},
            r"of torch.uint8; expected floating point in \[-1, 1\]: video.float\(\) / 127.5 - 1",
        ),
        (
            torch.full((3, 2, 8, 8), 200.0),
            {},
            r"values from 200 to 200; expected \[-1, 1\]: video / 127.5 - 1",
        ),
        (torch.zeros(3, 2, 8, 8), {"fps": 0}, "fps is 0; give 0.002 to 100000 frames per second, such as 8$"),
        (torch.zeros(3, 2, 8, 8), {"fps": torch.nan}, "fps is nan; give"),
        (torch.zeros(3, 2, 8, 8), {"fps": 60, "path": "a.gif"}, "fps is 60; give .* to 50 .*, or write another kind"),
        (torch.zeros(3, 2, 8, 8), {"fps": 1001, "path": "a.mkv"}, "fps is 1001; give .* to 1000 .*, or write another"),
        (torch.zeros(2, 3, 8, 8), {}, r"video is \(2, 3, 8, 8\); expected \(3, f, h, w\) or .*: video.transpose"),
        (torch.full((3, 2, 8, 8), torch.nan), {}, "not finite"),
        (torch.zeros(3, 0, 8, 8), {}, "no frames were written"),
    ],
)
def test_mistakes_in_writing_are_named(tmp_path: Path, video: Tensor, options: dict, message: str) -> None:
    path = tmp_path / options.pop("path", "clip.mp4")
    with pytest.raises(ValueError, match=message):
        write_video(path, video, **options)
    assert not list(tmp_path.iterdir())


def test_size_may_not_change(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a frame of 16x8 after 8x8"), VideoWriter(tmp_path / "clip.mp4") as writer:
        writer.write(torch.zeros(3, 1, 8, 8))
        writer.write(torch.zeros(3, 1, 16, 8))


@pytest.mark.faults
def test_broken_files_are_named(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mp4", smooth(40, 64, 64))
    whole = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    (tmp_path / "folder.mp4").mkdir()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        sound.rate = 44100
        container.mux([*stream.encode(sound), *stream.encode(None)])
    reasons = {
        "cut.mp4": "not a video, or cut off",
        "zero.mp4": "is empty",
        "text.mp4": "not a video, or cut off",
        "folder.mp4": "is a folder",
        "sound.mp4": "cannot find video stream",
        "missing.mp4": "no such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(VideoError, match=reason) as caught:
            read_video(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")


@pytest.mark.faults
def test_a_file_that_lies_about_its_length(tmp_path: Path) -> None:
    """With its index in front, a file cut in half still tells of all frames: what is left of them is read."""
    frames = 100
    with av.open(str(tmp_path / "good.mp4"), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=8, options={"x264-params": "keyint=10"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        noise = np.random.default_rng(0).integers(0, 255, (frames, 64, 64, 3), np.uint8)
        for frame in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    whole = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    assert torch.equal(read_video(tmp_path / "cut.mp4", range(20)), read_video(tmp_path / "good.mp4", range(20)))
    with VideoReader(tmp_path / "cut.mp4") as reader:
        for asked in ([reader.frames - 1], range(reader.frames), [frames]):
            with pytest.raises(VideoError, match=r"cut.mp4: (damaged or truncated|frames 100 to 100 asked for)"):
                reader.read(asked)
        assert reader.read([3]).shape == (3, 1, 64, 64)  # it goes on after a failure


@pytest.mark.parametrize("asked", [[-1], [30], [], [3, 31]])
def test_frames_that_are_not_there(tmp_path: Path, asked: list[int]) -> None:
    write_video(tmp_path / "clip.mp4", numbered(30))
    with pytest.raises(VideoError, match=r"asked for"):
        read_video(tmp_path / "clip.mp4", asked)


def test_other_peoples_comments_are_no_metadata(tmp_path: Path) -> None:
    write_video(tmp_path / "none.mp4", numbered(2))
    assert read_metadata(tmp_path / "none.mp4") == {}
    for comment in ("made by hand", "[1]"):
        Image.new("P", (8, 8)).save(tmp_path / "other.gif", comment=comment)
        assert read_metadata(tmp_path / "other.gif") == {}


def test_batches_become_a_grid(tmp_path: Path) -> None:
    greys = torch.tensor([-0.5, 0.0, 0.5, 0.75, 1.0]).view(5, 1, 1, 1, 1).expand(5, 3, 2, 4, 6)
    made = grid(greys)
    assert made.shape == (3, 2, 8, 18)
    tiles = made.unflatten(2, (2, 4)).unflatten(4, (3, 6))[0, 1, :, 0, :, 0]
    assert tiles.tolist() == [[-0.5, 0.0, 0.5], [0.75, 1.0, -1.0]]
    assert grid(greys, columns=5).shape == (3, 2, 4, 30)
    write_video(tmp_path / "grid", greys)
    assert read_image(tmp_path / "grid" / "000001.png").shape == (3, 8, 18)
    write_video(tmp_path / "one", greys[:1])
    assert read_image(tmp_path / "one" / "000001.png").shape == (3, 4, 6)


def test_sheet_lays_frames_side_by_side(tmp_path: Path) -> None:
    write_image(tmp_path / "new" / "sheet.png", sheet(numbered(5, 4, 6)))
    found = read_image(tmp_path / "new" / "sheet.png")
    assert found.shape == (3, 4, 30)
    assert numbers(found.unflatten(2, (5, 6)).movedim(2, 1)) == [0, 1, 2, 3, 4]
