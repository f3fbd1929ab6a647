"""One way to read a picture, alone and as a frame of a clip: upright, opaque, of 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidiff.store.error import VideoError
from vidiff.store.place import place_of
from vidiff.video.decode import Treatment
from vidiff.video.fit import read_fitted, size_of
from vidiff.video.reader import VideoReader, read_image
from vidiff.video.sources import traits_of

SIZE = (24, 16)  # width and height
WHITE = (255, 255, 255)


def translucent(folder: Path) -> tuple[Path, tuple[int, int, int]]:
    Image.new("RGBA", SIZE, (255, 0, 0, 51)).save(folder / "x1.png")
    return folder / "x1.png", (255, 204, 204)  # a fifth of red over white


def clear_grey(folder: Path) -> tuple[Path, tuple[int, int, int]]:
    Image.new("LA", SIZE, (10, 0)).save(folder / "x1.png")
    return folder / "x1.png", WHITE


def palette(folder: Path) -> tuple[Path, tuple[int, int, int]]:
    picture = Image.new("P", SIZE, 1)
    picture.putpalette([0, 0, 0, 0, 0, 255])
    picture.save(folder / "x1.png", transparency=bytes([255, 102]))
    return folder / "x1.png", (153, 153, 255)


def clear_palette(folder: Path) -> tuple[Path, tuple[int, int, int]]:
    picture = Image.new("P", SIZE, 1)
    picture.putpalette([0, 0, 0, 0, 0, 255])
    picture.save(folder / "x1.gif", transparency=1)
    return folder / "x1.gif", WHITE


def clear_colour(folder: Path) -> tuple[Path, tuple[int, int, int]]:
    Image.new("RGB", SIZE, (1, 2, 3)).save(folder / "x1.png", transparency=(1, 2, 3))
    return folder / "x1.png", WHITE


def deep_grey(folder: Path) -> tuple[Path, tuple[int, int, int]]:
    Image.fromarray(np.full(SIZE[::-1], 0x8080, np.uint16)).save(folder / "x1.png")
    return folder / "x1.png", (128, 128, 128)


def deep_white(folder: Path) -> tuple[Path, tuple[int, int, int]]:
    Image.fromarray(np.full(SIZE[::-1], 0xFFFF, np.uint16)).save(folder / "x1.png")
    return folder / "x1.png", WHITE


def deep_and_clear(folder: Path) -> tuple[Path, tuple[int, int, int]]:
    Image.fromarray(np.full(SIZE[::-1], 0x1234, np.uint16)).save(folder / "x1.png", transparency=0x1234)
    return folder / "x1.png", WHITE


def printed(folder: Path) -> tuple[Path, tuple[int, int, int]]:
    Image.new("CMYK", SIZE, (0, 255, 255, 0)).save(folder / "x1.jpg", quality=100)
    return folder / "x1.jpg", (255, 0, 0)


def two_levels(folder: Path) -> tuple[Path, tuple[int, int, int]]:
    Image.new("1", SIZE, 1).save(folder / "x1.png")
    return folder / "x1.png", WHITE


KINDS = [
    translucent, clear_grey, palette, clear_palette, clear_colour, deep_grey, deep_white, deep_and_clear, printed,
    two_levels,
]  # fmt: skip
SEEN_THROUGH = {translucent, clear_grey, palette, clear_palette, clear_colour, deep_and_clear}


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_read_one_way(tmp_path: Path, kind) -> None:
    path, expected = kind(tmp_path)
    image = np.rint((read_image(path).numpy() + 1) * 127.5)
    assert image.shape == (3, *SIZE[::-1])
    assert np.abs(image - np.array(expected)[:, None, None]).max() <= 2
    (tmp_path / f"x2{path.suffix}").write_bytes(path.read_bytes())
    for place in [path, *([tmp_path] if path.suffix != ".gif" else [])]:  # a clip of one picture, and of two
        with VideoReader(place) as reader:
            assert np.array_equal(reader.pixels([0])[0], image.transpose(1, 2, 0))
        assert traits_of(place_of(place)) == (("transparent",) if kind in SEEN_THROUGH else ())
    fitted, _ = read_fitted(path, SIZE[::-1])
    assert np.abs(np.rint((fitted[0, :, 0].numpy() + 1) * 127.5) - image).max() == 0


@pytest.mark.parametrize("turned", range(1, 9))
def test_a_picture_is_turned_as_its_exif_data_say(tmp_path: Path, turned: int) -> None:
    """All eight ways, in 8 bits and in 16: the corner that is bright belongs to the top left."""
    top = np.zeros(SIZE[::-1], np.uint8)
    top[:8, :12] = 255
    ways = {1: top, 2: top[:, ::-1], 3: top[::-1, ::-1], 4: top[::-1], 5: top.T, 6: top.T[::-1],
            7: top.T[::-1, ::-1], 8: top.T[:, ::-1]}  # fmt: skip
    exif = Image.Exif()
    exif[0x112] = turned
    stored = np.ascontiguousarray(ways[turned])
    for name, values in {"8.png": stored, "16.png": stored.astype(np.uint16) * 257, "8.jpg": stored}.items():
        Image.fromarray(values).save(tmp_path / name, exif=exif)
        image = read_image(tmp_path / name)
        assert image.shape == (3, *SIZE[::-1])
        assert np.abs(image[0].numpy() - (top / 127.5 - 1)).max() < 0.1
        with VideoReader(tmp_path / name) as reader:
            assert np.abs(reader.read()[0, 0].numpy() - image[0].numpy()).max() == 0


def test_another_colour_is_put_behind(tmp_path: Path) -> None:
    path, _ = translucent(tmp_path)
    assert np.rint((read_image(path, "#0000ff")[:, 0, 0].numpy() + 1) * 127.5).tolist() == [51, 0, 204]
    with VideoReader(path, treatment=Treatment("blue")) as reader:
        assert reader.pixels()[0, 0, 0].tolist() == [51, 0, 204]
        assert reader.pixels(size=(8, 12))[0, 0, 0].tolist() == [51, 0, 204]
    with pytest.raises(ValueError, match="sky"):
        read_image(path, "sky")


@pytest.mark.parametrize(
    ("name", "alpha", "red", "options"),
    [("x.gif", 255, (255, 0, 0), {"disposal": 2}), ("x.webp", 51, (255, 204, 204), {"lossless": True})],
)
def test_a_moving_picture_is_put_over_the_colour_frame_by_frame(
    tmp_path: Path, name: str, alpha: int, red: tuple[int, int, int], options: dict[str, object]
) -> None:
    """What is clear in one frame of a GIF or a WebP does not show what was there before it."""
    parts = [Image.new("RGBA", SIZE, (0, 0, 0, 0)) for _ in range(2)]
    for left, part in zip((0, 12), parts, strict=True):
        part.paste((255, 0, 0, alpha), (left, 0, left + 12, 16))
    parts[0].save(tmp_path / name, save_all=True, append_images=parts[1:], duration=100, **options)
    with VideoReader(tmp_path / name) as reader:
        shown = reader.pixels()[:, 0, [0, -1]]
    assert shown.tolist() == [[[*red], [*WHITE]], [[*WHITE], [*red]]]


def test_pixels_whose_white_is_not_known_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full(SIZE[::-1], 0.5, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(VideoError, match="fractions, of which nothing tells what is white: save it with 8 or 16 bits"):
        read_image(tmp_path / "x.tif")


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it takes all the same
@pytest.mark.parametrize("kind", ["gif", "webp", "png", "jpg", "bmp", "tif", "tga"])
def test_what_is_damaged_is_refused_and_raises_nothing_else(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 files each, cut off or with bytes changed, all are read or named."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # so that those which claim to be large are refused at once
    noise = np.random.default_rng(0)
    frames = [Image.fromarray(noise.integers(0, 256, (16, 24, 3), np.uint8)) for _ in range(3)]
    animated = {"save_all": True, "append_images": frames[1:]} if kind in ("gif", "webp") else {}
    frames[0].save(tmp_path / f"x1.{kind}", **animated)
    whole, read = (tmp_path / f"x1.{kind}").read_bytes(), 0
    path = tmp_path / f"broken.{kind}"
    for number in range(100):
        content = bytearray(whole)
        if number % 2:
            del content[noise.integers(len(whole)) :]
        for place in noise.integers(len(content), size=number % 7) if content else ():
            content[place] = noise.integers(256)
        path.write_bytes(content)
        try:
            with VideoReader(path) as reader:
                _ = reader.fps, reader.size, reader.pixels()
            read += 1
        except VideoError as error:
            assert path.name in str(error)
    assert read < 100


def test_a_webp_may_be_animated(tmp_path: Path) -> None:
    frames = [Image.new("RGB", SIZE, (80 * number, 0, 0)) for number in range(3)]
    frames[0].save(tmp_path / "one.webp", lossless=True)
    frames[0].save(tmp_path / "more.webp", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    for name, count, rate in (("one", 1, None), ("more", 3, 10.0)):
        clip, fps = read_fitted(tmp_path / f"{name}.webp", 16)
        assert clip.shape == (1, 3, count, 16, 16) and fps == rate
        assert size_of(tmp_path / f"{name}.webp") == (16, 24)
