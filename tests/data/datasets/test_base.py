import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

from dist_rmd.data.datasets.base import UnreadableImage, fit, image_files, read_image
from dist_rmd.errors import DataError

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


def test_image_files_are_sorted_found_deep_and_told_from_others(tmp_path):
    for name in ("b.PNG", "a.jpeg", "deep/er/c.webp", "notes.txt", ".hidden.png", ".thumbs/x.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.warns(UserWarning, match=r"left out 1 files that are no images, .*notes\.txt first"):
        found = list(image_files(tmp_path))
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a.jpeg", "b.PNG", "deep/er/c.webp"]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    with pytest.raises(DataError, match="gone: cannot be listed"):
        list(image_files(tmp_path / "gone"))
