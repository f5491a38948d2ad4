"""Removes metadata from image files, since a broken tag must not make a good picture unreadable."""

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
KEPT_BY_PNG = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
KEPT_BY_JPEG = (0xE0, 0xEE)  # JFIF, and Adobe's segment, which says how colours are coded
START_OF_SCAN, COMMENT = 0xDA, 0xFE


def without_metadata(content: bytes) -> bytes | None:
    """A PNG or JPEG file without text, times, profiles and EXIF; None for another format or a broken structure."""
    if content.startswith(PNG):
        return _png(content)
    return _jpeg(content) if content.startswith(JPEG) else None


def _png(content: bytes) -> bytes | None:
    """A PNG without metadata.  A chunk of the file is: length, kind, data, checksum."""
    kept, place = [PNG], len(PNG)
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4])
        if content[place + 4 : place + 8] in KEPT_BY_PNG:
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


def _jpeg(content: bytes) -> bytes | None:
    """A JPEG without metadata.  A segment of the file is: 0xFF, kind, length (with itself), data; pixels come last."""
    kept, place = [JPEG], len(JPEG)
    while content[place : place + 1] == b"\xff" and place + 4 <= len(content):
        kind = content[place + 1]
        if kind == START_OF_SCAN:
            return b"".join([*kept, content[place:]])
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4])
        is_metadata = 0xE0 <= kind <= 0xEF and kind not in KEPT_BY_JPEG
        if kind != COMMENT and not is_metadata:
            kept.append(content[place:end])
        place = end
    return None
