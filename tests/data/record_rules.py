"""MXNet's rules of record files, written down a second time, slowly and apart: the yardstick of the tests."""

from __future__ import annotations

import struct

MARK = 0xCED7230A
MARK_BYTES = b"\x0a\x23\xd7\xce"


def slow_frame(content: bytes) -> bytes:
    """Frames a record word by word."""
    out, begin = b"", 0
    for at in range(0, len(content) // 4 * 4, 4):
        if content[at : at + 4] == MARK_BYTES:
            out += struct.pack("<II", MARK, (2 if begin else 1) << 29 | at - begin) + content[begin:at]
            begin = at + 4
    rest = content[begin:]
    out += struct.pack("<II", MARK, (3 if begin else 0) << 29 | len(rest)) + rest
    return out + b"\0" * (-len(rest) % 4)


def slow_parts(data: bytes) -> list[tuple[int, int, int]]:
    """Returns (offset, kind, length) of every part of an undamaged file."""
    parts, at = [], 0
    while at < len(data):
        mark, word = struct.unpack_from("<II", data, at)
        assert mark == MARK
        parts.append((at, word >> 29, word % 2**29))
        at += 8 + word % 2**29 + -(word % 2**29) % 4
    return parts


def slow_records(data: bytes) -> list[tuple[int, bytes]]:
    """Returns (offset, content) of every record of an undamaged file."""
    records: list[tuple[int, bytes]] = []
    for at, kind, length in slow_parts(data):
        part = data[at + 8 : at + 8 + length]
        if kind in (0, 1):
            records.append((at, part))
        else:
            records[-1] = (records[-1][0], records[-1][1] + MARK_BYTES + part)
    return records


def slow_read(data: bytes, at: int) -> bytes:
    """Returns the content of the record at an offset, as MXNet would read it from an undamaged file."""
    content = b""
    while True:
        mark, word = struct.unpack_from("<II", data, at)
        assert mark == MARK
        content += data[at + 8 : at + 8 + word % 2**29]
        if word >> 29 in (0, 3):
            return content
        content += MARK_BYTES
        at += 8 + word % 2**29 + -(word % 2**29) % 4


def slow_unpack(content: bytes) -> tuple[object, int, int, bytes]:
    """Returns label, id, id2, payload as MXNet's ``recordio.unpack`` does."""
    flag, label, id_, id2 = struct.unpack("IfQQ", content[:24])
    if flag:
        return list(struct.unpack(f"{flag}f", content[24 : 24 + 4 * flag])), id_, id2, content[24 + 4 * flag :]
    return label, id_, id2, content[24:]


def read_like_insightface(folder) -> list[tuple[float, bytes]]:
    """Returns (label, image) in the order in which InsightFace's PyTorch and MXNet data sets number them."""
    data = (folder / "train.rec").read_bytes()
    offsets = dict(map(int, line.split("\t")) for line in (folder / "train.idx").read_text().splitlines())
    contents = dict(slow_records(data))
    label, _, _, _ = slow_unpack(contents[offsets[0]])
    keys = range(1, int(label[0])) if isinstance(label, list) else list(offsets)
    images = []
    for key in keys:
        label, _, _, payload = slow_unpack(contents[offsets[key]])
        images.append((label[0] if isinstance(label, list) else label, payload))
    return images


def identities_like_insightface(folder) -> list[list[int]]:
    """Returns the keys of each identity's images as InsightFace's MXNet iterator finds them."""
    data = (folder / "train.rec").read_bytes()
    offsets = dict(map(int, line.split("\t")) for line in (folder / "train.idx").read_text().splitlines())
    contents = dict(slow_records(data))
    first, end = slow_unpack(contents[offsets[0]])[0]
    ranges = [slow_unpack(contents[offsets[key]])[0] for key in range(int(first), int(end))]
    return [list(range(int(a), int(b))) for a, b in ranges]
