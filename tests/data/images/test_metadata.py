import io
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from dist_rmd.data.images.metadata import without_metadata


def saved(kind, **options):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).convert(options.pop("mode", "RGB")).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        saved("JPEG", comment=b"a comment", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", icc_profile=b"x" * 70000),
        saved("JPEG", mode="CMYK", comment=b"a comment"),
        saved("JPEG", mode="L", progressive=True, exif=b"Exif\0\0" + b"\xff" * 100),
        saved("PNG", icc_profile=b"x" * 100, exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0"),
        saved("PNG", mode="P", transparency=3, dpi=(300, 300)),
    ],
)
def test_pixels_stay_and_the_rest_goes(content):
    bare = without_metadata(content)
    assert len(bare) < len(content)
    before, after = Image.open(io.BytesIO(content)), Image.open(io.BytesIO(bare))
    np.testing.assert_array_equal(np.asarray(after.convert("RGBA")), np.asarray(before.convert("RGBA")))
    assert not {"exif", "icc_profile", "comment"} & after.info.keys()
    assert after.info.get("transparency") == before.info.get("transparency")


def test_a_text_chunk_of_a_damaged_png_goes():
    text = PngImagePlugin.PngInfo()
    text.add_text("who", "somebody")
    content = bytearray(saved("PNG", pnginfo=text))
    content[content.index(b"somebody")] ^= 1
    assert zlib.crc32(b"IEND") == int.from_bytes(content[-4:])
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(content))
    Image.open(io.BytesIO(without_metadata(bytes(content)))).load()


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\xff\xd8", b"\xff\xd8\xff\xe1\x00\x10cut", b"no image"])
def test_other_formats_and_broken_structures_are_left_alone(content):
    assert without_metadata(content) is None
