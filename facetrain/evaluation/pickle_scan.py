"""Looking through a pickle without running it."""

from __future__ import annotations

import pickletools

ALLOWED_OPCODES = frozenset(
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 STRING BINSTRING "
    "SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 "
    "EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET "
    "LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD".split()
)
_OPCODES = {ord(op.code): op for op in pickletools.opcodes}
_LINES = {"GLOBAL": 2}
_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_MAX_NUMBER_TEXT = 32


class PickleError(ValueError):
    """A pickle that is damaged, or asks for more than its content needs; the message is the end of a sentence."""


def scan_pickle(
    data: bytes, allowed: frozenset[str] = ALLOWED_OPCODES, content: str = "lists of images", start: int = 0
) -> int:
    """Walks over all instructions of a pickle without running them.

    Args:
        data: the whole pickle.
        allowed: names of the instructions that it may hold.
        content: what is read, in the plural, for messages.
        start: where in ``data`` it begins.

    Returns:
        the position after the last instruction.

    Raises:
        PickleError: at an instruction that is not allowed, a length beyond the end, or a claim on memory.
    """
    if not data:
        raise PickleError("it is empty")
    position, count = start, 0
    while position < len(data):
        opcode = _OPCODES.get(data[position])
        if opcode is None:
            raise PickleError(f"it is no pickle, or a damaged one (byte {data[position]} at position {position})")
        if opcode.name not in allowed:
            raise PickleError(
                f"it holds a {opcode.name} instruction at position {position}, which {content} never need; "
                "such files can run code, so it was not opened"
            )
        first = position + 1
        position = _argument_end(data, first, opcode)
        _check_number(data[first:position], opcode.name, count)
        count += 1
        if opcode.name == "STOP":
            return position
    raise PickleError(f"it is cut short after {len(data)} bytes")


def _argument_end(data: bytes, start: int, opcode: pickletools.OpcodeInfo) -> int:
    if opcode.arg is None:
        return start
    width = opcode.arg.n
    if width == pickletools.UP_TO_NEWLINE:
        end = start
        for _ in range(_LINES.get(opcode.name, 1)):
            end = data.find(b"\n", end) + 1
            if not end:
                raise PickleError(f"it is cut short within an instruction at position {start - 1}")
        return end
    if width < 0:
        start += _LENGTH_BYTES[width]
        width = int.from_bytes(data[start - _LENGTH_BYTES[width] : start], "little")
    if width > len(data) - start:
        raise PickleError(
            f"it is cut short: position {start} announces {width} bytes, {max(len(data) - start, 0)} are left"
        )
    return start + width


def _check_number(argument: bytes, name: str, count: int) -> None:
    if name in ("INT", "LONG", "LONG1", "PUT", "GET") and len(argument) > _MAX_NUMBER_TEXT:
        raise PickleError(f"it holds a number of {len(argument)} bytes")
    if name in ("PUT", "BINPUT", "LONG_BINPUT"):
        text = argument.strip()
        slot = int(text) if name == "PUT" and text.isdigit() else int.from_bytes(argument, "little")
        # Picklers number their slots one by one; the reader would reserve memory for all slots below.
        if slot > count:
            raise PickleError(f"it claims memory slot {slot} after {count} instructions")
