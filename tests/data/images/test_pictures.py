import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.transforms import functional

from dist_rmd.data.images.pictures import UnreadableImage, allow_pixels, fit, read_image

RED, GREEN = (255, 0, 0), (0, 255, 0)


def noise(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp"])
def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path, suffix):
    pixels = noise(12, 12)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", lossless=True)
    read = read_image(tmp_path / f"a.{suffix}", 12)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96), (99, 60), (20, 20), (16, 40)])
def test_resize_and_crop_agree_with_torchvision(height, width):
    """The crop differs by less than a pixel of the result, the resize at its border only: compare on a smooth image."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([127 + 100 * np.sin(x / 15), 127 + 100 * np.cos(y / 15), (x + y) % 256 * 0.5], -1)
    image = Image.fromarray(smooth.astype(np.uint8)[..., :3])
    small = functional.resize(image, 32, functional.InterpolationMode.BICUBIC)
    expected = np.asarray(functional.center_crop(small, [32, 32])).astype(int)
    assert np.abs(fit(image, 32) - expected)[2:-2, 2:-2, :2].max() <= 8
    assert fit(image, 32).shape == (32, 32, 3)


def test_the_crop_is_central_and_a_sliver_is_no_problem():
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = GREEN
    assert (fit(Image.fromarray(wide), 8) == GREEN).all()
    assert fit(Image.new("RGB", (20000, 1), RED), 8).tolist() == np.full((8, 8, 3), RED).tolist()


def as_mode(mode):
    """A 6 x 6 image, left half dark, right half bright, in `mode`; and the RGB that it shows."""
    grey = np.repeat([[30] * 3 + [200] * 3], 6, 0).astype(np.uint8)
    shown = np.repeat(grey[..., None], 3, -1)
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257), shown
    if mode == "1":
        return Image.fromarray(shown).convert("1", dither=Image.Dither.NONE), np.where(shown > 127, 255, 0)
    return Image.fromarray(shown).convert(mode, palette=Image.Palette.ADAPTIVE), shown


PNGS = ["1.png", "L.png", "I;16.png", "LA.png", "P.png", "RGBA.png", "RGB.png"]
OTHERS = ["P.gif", "RGBA.webp", "L.jpg", "CMYK.jpg", "RGB.jpeg", "L.bmp"]


@pytest.mark.parametrize("kind", [*PNGS, *OTHERS])
def test_every_mode_becomes_rgb(tmp_path, kind):
    mode, suffix = kind.split(".")
    image, shown = as_mode(mode)
    path = tmp_path / f"a.{suffix}"
    image.save(path)
    tolerance = 12 if suffix in ("jpg", "jpeg", "webp") else 0
    assert np.abs(read_image(path, 6).astype(int) - shown).max() <= tolerance


def test_transparent_parts_show_white(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4] = (*RED, 255)
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, *RED])
    palette.paste(1, (0, 0, 8, 4))
    palette.save(tmp_path / "palette.png", transparency=0)
    for name in ("rgba.png", "palette.png"):
        read = read_image(tmp_path / name, 8)
        assert (read[:4] == RED).all()
        assert (read[4:] == 255).all()


def test_exif_turns_the_image_upright(tmp_path):
    pixels = np.full((16, 16, 3), RED, np.uint8)
    pixels[:8] = GREEN
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to show
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    read = read_image(tmp_path / "a.png", 16)
    assert (read[:, 8:] == GREEN).all()
    assert (read[:, :8] == RED).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp"])
def test_a_damaged_image_is_named(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise(40, 40)).save(whole)
    content = whole.read_bytes()
    for name, part in {"empty": b"", "text": b"no image", "cut": content[: len(content) // 2]}.items():
        path = tmp_path / f"{name}.{suffix}"
        path.write_bytes(part)
        with pytest.raises(UnreadableImage) as raised:
            read_image(path, 32)
        assert str(raised.value).startswith(f"{path}: unreadable image (")
        assert "\n" not in str(raised.value)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(UnreadableImage, match=r"gone\.png"):
        read_image(tmp_path / "gone.png", 32)


def with_exif(tiff):
    """A JPEG, 48 x 40, whose left half is red and right half green, with this as its EXIF."""
    pixels = np.full((40, 48, 3), RED, np.uint8)
    pixels[:, 24:] = GREEN
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    content = b"Exif\0\0" + tiff
    marker = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    return file.getvalue()[:2] + marker + file.getvalue()[2:]


def entries(*tags):
    """A TIFF header and one directory."""
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(tags) + struct.pack("<I", 0)


TURNED = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)


@pytest.mark.parametrize(
    "tiff",
    [
        entries(TURNED, struct.pack("<HHII", 0x11A, 10, 1, 38)) + struct.pack("<ii", -1, 0),  # a resolution of -1 / 0
        entries(TURNED, struct.pack("<HHII", 0x11A, 5, 1, 10**9)),  # beyond the end
        entries(TURNED, struct.pack("<HHII", 0x8769, 4, 1, 8)),  # a directory within itself
        entries(TURNED, struct.pack("<HHII", 0x9286, 99, 10**6, 8)),  # of a type that there is not
    ],
)
def test_a_broken_tag_beside_it_does_not_hide_how_the_picture_was_taken(tmp_path, tiff):
    (tmp_path / "a.jpg").write_bytes(with_exif(tiff))
    read = read_image(tmp_path / "a.jpg", 40).astype(int)
    assert np.abs(read[:12] - RED).max() < 40
    assert np.abs(read[-12:] - GREEN).max() < 40


@pytest.mark.parametrize(
    "tiff",
    [b"", b"II*\0", b"nonsense", entries(struct.pack("<HHII", 0x112, 2, 5, 8)), entries(TURNED)[:14], b"\xff" * 64],
)
def test_exif_that_cannot_be_read_loses_no_picture(tmp_path, tiff):
    (tmp_path / "a.jpg").write_bytes(with_exif(tiff))
    read = read_image(tmp_path / "a.jpg", 40).astype(int)
    assert np.abs(read[:, :12] - RED).max() < 40


def chunk(kind, data, checksum=None):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ (checksum or 0))


@pytest.mark.parametrize(
    "spoilt",
    [
        chunk(b"tEXt", b"who\0me", checksum=1),
        chunk(b"zTXt", b"who\0\0" + zlib.compress(b"x" * 10**8)),
        chunk(b"iCCP", b"profile\0\0" + b"not zlib"),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"x" * 10**8)),
        chunk(b"pHYs", b"\0"),
        chunk(b"gAMA", b""),
        chunk(b"eXIf", b"nonsense"),
        chunk(b"tIME", b"", checksum=1),
    ],
)
def test_spoilt_chunks_beside_them_lose_no_pixels(tmp_path, spoilt):
    pixels = noise(16, 16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:33] + spoilt + content[33:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 16), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_every_orientation_is_turned_as_pillow_does(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x112] = orientation
    smooth = np.add.outer(np.arange(16) * 8, np.arange(16) * 4)[..., None] + np.array([0, 20, 40])
    Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / f"a.{suffix}", exif=exif)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}", 16), expected)


def test_sixteen_bit_and_floating_point_tiffs(tmp_path):
    grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", 16)[..., 0], (grey / 257).round())
    Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)).save(tmp_path / "b.tif")
    with pytest.raises(UnreadableImage, match=r"b\.tif: .*floating-point pixels.*save it with 8 or 16 bits"):
        read_image(tmp_path / "b.tif", 16)
    Image.fromarray(np.full((16, 16), 70000, np.int32)).save(tmp_path / "c.tif")
    with pytest.raises(UnreadableImage, match="pixels of more than 16 bits"):
        read_image(tmp_path / "c.tif", 16)


def test_what_would_be_waited_for_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises(UnreadableImage, match=f"{name}: unreadable image .it is no file"):
            read_image(tmp_path / name, 8)


def test_the_largest_image_is_a_choice(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    Image.new("1", (2000, 1000)).save(tmp_path / "a.png")
    allow_pixels(1.5)
    with pytest.raises(UnreadableImage, match=r"2000000 pixels.* limit of 1500000.*--max-megapixels allows larger"):
        read_image(tmp_path / "a.png", 8)
    allow_pixels(2.5)
    assert read_image(tmp_path / "a.png", 8).shape == (8, 8, 3)
