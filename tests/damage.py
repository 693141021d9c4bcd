"""Damages files in every way a disk, a crash or a stranger might; seeded, so that a case recurs."""

import json
import os
import random
import signal
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SCALE = float(os.environ.get("DIVTRAIN_FUZZ", "1"))
"""Multiplies the number of cases: DIVTRAIN_FUZZ=100 makes a long run."""

TRIED: Counter[str] = Counter()
"""Cases tried so far in this process, by what came of them."""

CONFUSING: list[Any] = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**64, -(10**30), 10**400, 0.5, -0.5, 1e308, 1e-320,
    float("nan"), float("inf"), "", "x", "0.1", "nan", "é\u2028", "\x00", "\ud800", "a" * 5000,
    "../../../etc/passwd", "/dev/zero", "prob", "F64", "vote", "clean", "worst", [], [[]], [0],
    [-1, 2], ["x"], [2**62, 2**62], {}, {"x": 1}, {"format": "x"}, [[[[[[]]]]]],
]  # fmt: skip
"""Values of other types, other signs, other sizes."""


def cases(number: int) -> int:
    """How many cases to try where the default suite tries `number`."""
    return max(1, round(number * SCALE))


class Hang(BaseException):
    """A case that did not end; no `except Exception` may swallow it."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Context that fails instead of hanging."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def damaged(content: bytes, draw: random.Random, head: int | None = None) -> bytes:
    """Return content cut, flipped, overwritten, moved, doubled or lengthened; never unchanged.

    Args:
        content: A whole file.
        draw: Where the choices come from.
        head: Bytes at the beginning that deserve as much damage as all the rest.
    """
    size = len(content)
    reach = head if head and draw.random() < 0.5 else size
    place = draw.randrange(reach)
    length = min(size - place, 1 + int(draw.expovariate(1 / 20)))
    damaged = bytearray(content)
    kind = draw.choice(("cut", "flip", "flip", "flips", "noise", "zero", "drop", "double", "more"))
    if kind == "cut":
        del damaged[place:]
    elif kind == "flip":
        damaged[place] ^= 1 << draw.randrange(8)
    elif kind == "flips":
        for _ in range(draw.randint(2, 30)):
            damaged[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    elif kind == "noise":
        damaged[place : place + length] = draw.randbytes(length)
    elif kind == "zero":
        damaged[place : place + length] = bytes(length)
    elif kind == "drop":
        del damaged[place : place + length]
    elif kind == "double":
        damaged[place:place] = damaged[place : place + length]
    else:
        damaged += draw.randbytes(length)
    if damaged == content:
        damaged[place] ^= 1
    return bytes(damaged)


def confused(value: Any, draw: random.Random) -> Any:
    """Return JSON with one thing in it replaced, removed, added or repeated."""
    value = json.loads(json.dumps(value))
    holders = [(None, None), *_places(value)]
    holder, key = draw.choice(holders)
    if holder is None:
        return draw.choice(CONFUSING)
    kind = draw.choice(("replace", "replace", "replace", "remove", "repeat", "add"))
    if kind == "remove":
        del holder[key]
    elif kind == "repeat":
        other, its = draw.choice(holders[1:])
        holder[key] = json.loads(json.dumps(other[its]))
    elif kind == "add" and isinstance(holder, dict):
        holder[draw.choice(("x", "", "sha256", "name"))] = draw.choice(CONFUSING)
    else:
        holder[key] = draw.choice(CONFUSING)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value."""
    keys: list[Any] = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    return [each for key in keys for each in ((value, key), *_places(value[key]))]


def header_size(content: bytes) -> int:
    """Length of a safetensors file's header, with the eight bytes that tell it."""
    return 8 + struct.unpack("<Q", content[:8])[0]


def confused_header(content: bytes, draw: random.Random) -> bytes:
    """Return a safetensors file whose header says something else of the same bytes."""
    size = header_size(content)
    header = json.dumps(confused(json.loads(content[8:size]), draw)).encode("utf-8", "replace")
    return struct.pack("<Q", len(header)) + header + content[size:]


def deep_json(levels: int = 100_000) -> bytes:
    """Valid JSON that exhausts a recursive parser."""
    return b"[" * levels + b"]" * levels


def survives(
    use: Callable[[], Any], error: type[Exception], seconds: float = 30.0
) -> tuple[bool, Any]:
    """Call `use`; return whether it came to an end without `error`, and with what.

    Any other exception, and a hang, are the caller's to fail with.
    """
    with at_most(seconds):
        try:
            found = use()
        except error as caught:
            assert str(caught)
            TRIED["refused"] += 1
            return False, None
    TRIED["taken"] += 1
    return True, found
