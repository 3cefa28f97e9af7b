"""The collectives of a compiled program, read from its text."""

import math
import re
from collections import Counter
from typing import NamedTuple

_KINDS = frozenset(
    (
        "all-reduce",
        "all-gather",
        "reduce-scatter",
        "all-to-all",
        "ragged-all-to-all",
        "collective-permute",
        "collective-broadcast",
    )
)
_HEADER = re.compile(r"^(?:ENTRY\s+)?%?([\w.\-]+)\s.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT\s+)?%?([\w.\-]+)\s+=\s+(?=\S)")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d\w*)\[([<=\d,\s]*)\]")
_REFERENCE = re.compile(r"%?([\w.\-]+)")
_CALLED = re.compile(
    r"\b(body|condition|calls|to_apply|branch_computations|called_computations|"
    r"true_computation|false_computation)=(\{[^}]*\}|%?[\w.\-]+)"
)


class Collective(NamedTuple):
    """Collectives of a program that are alike.

    Attributes:
        kind: `"all-reduce"`, `"all-gather"`, `"reduce-scatter"`, `"all-to-all"`, ...
        count: how many of them the text holds: one in a loop's body counts once.
        bytes: of each, on one device: what goes in or what comes out, whichever is larger.
        in_loop: whether they are in a loop's body or condition, at any depth.

    Example:
        >>> Collective("all-reduce", 1, 4096, True).kind
        'all-reduce'
    """

    kind: str
    count: int
    bytes: int
    in_loop: bool


class _Instruction(NamedTuple):
    name: str
    shape: str
    opcode: str
    operands: str
    attributes: str


def collectives(compiled_text: str) -> list[Collective]:
    """The collectives of a compiled program, from `jax.jit(f).lower(...).compile().as_text()`.

    One that is split into a start and a done (as TPUs and GPUs do to compute meanwhile) counts
    once. One that combines several arrays counts once, with the bytes of all of them.

    Args:
        compiled_text: the optimized HLO text of a program for several devices.

    Returns:
        Those that are alike together, the largest first.

    Example:
        >>> text = '''
        ... ENTRY main.1 {
        ...   x = f32[8,16]{1,0} parameter(0)
        ...   ROOT all-reduce.1 = f32[8,16]{1,0} all-reduce(x), to_apply=add
        ... }
        ... '''
        >>> collectives(text)
        [Collective(kind='all-reduce', count=1, bytes=512, in_loop=False)]
    """
    computations = _computations(compiled_text)
    looped = _in_loops(computations)
    found: Counter[tuple[str, int, bool]] = Counter()
    for name, instructions in computations.items():
        shapes = {i.name: i.shape for i in instructions}
        for instruction in instructions:
            kind = instruction.opcode.removesuffix("-start")
            if kind in _KINDS:
                found[kind, _bytes_of(instruction, shapes), name in looped] += 1
    ranked = sorted(found.items(), key=lambda item: (-item[0][1], item[0]))
    return [Collective(kind, count, size, loop) for (kind, size, loop), count in ranked]


def _computations(text: str) -> dict[str, list[_Instruction]]:
    computations: dict[str, list[_Instruction]] = {}
    current: list[_Instruction] = []
    for line in text.splitlines():
        start = _INSTRUCTION.match(line)
        if start is not None:
            instruction = _parse(start[1], line[start.end() :])
            if instruction is not None:
                current.append(instruction)
            continue
        header = _HEADER.match(line)
        if header is not None and header[1] != "HloModule":
            current = computations.setdefault(header[1], [])
    return computations


def _parse(name: str, rest: str) -> _Instruction | None:
    """`shape opcode(operands), attributes`; shapes of tuples and layouts hold parentheses."""
    end = _closing_index(rest, 0) if rest.startswith("(") else rest.find(" ")
    opcode = _OPCODE.match(rest, end)
    if end < 0 or opcode is None:
        return None
    closing = _closing_index(rest, opcode.end() - 1)
    operands = rest[opcode.end() : closing - 1]
    return _Instruction(name, rest[:end], opcode[1], operands, rest[closing:])


def _closing_index(text: str, start: int) -> int:
    """The index behind the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index + 1
    return len(text)


def _in_loops(computations: dict[str, list[_Instruction]]) -> set[str]:
    """The computations that loops run, and those that these call."""
    calls: dict[str, set[str]] = {name: set() for name in computations}
    waiting: list[str] = []
    for name, instructions in computations.items():
        for instruction in instructions:
            for role, names in _CALLED.findall(instruction.attributes):
                called = set(_REFERENCE.findall(names))
                calls[name] |= called
                if role in ("body", "condition"):
                    waiting += called
    looped: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in looped:
            looped.add(name)
            waiting += calls.get(name, ())
    return looped


def _bytes_of(instruction: _Instruction, shapes: dict[str, str]) -> int:
    result = instruction.shape
    # A start returns its operands, then its result, then counters.
    if instruction.opcode.endswith("-start") and instruction.opcode != "all-reduce-start":
        parts = _parts(result)
        result = parts[1] if len(parts) > 1 else result
    operands = instruction.operands
    if not _ARRAY.search(operands):
        names = _REFERENCE.findall(re.sub(r"/\*.*?\*/", "", operands))
        operands = " ".join(shapes.get(name, "") for name in names)
    return max(_bytes(operands), _bytes(result))


def _parts(shape: str) -> list[str]:
    """The parts of a tuple's shape; the shape itself where it is no tuple."""
    if not shape.startswith("("):
        return [shape]
    parts, depth, start = [], 0, 1
    for index, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if (depth == 1 and letter == ",") or depth == 0:
            parts.append(shape[start:index])
            start = index + 1
    return parts


def _bytes(shape: str) -> int:
    total = 0
    for dtype, dims in _ARRAY.findall(shape):
        sizes = [int(dim) for dim in re.findall(r"\d+", dims)]
        total += -(-_bits(dtype) * math.prod(sizes) // 8)
    return total


def _bits(dtype: str) -> int:
    if dtype in ("pred", "token"):
        return 8 if dtype == "pred" else 0
    # f32, bf16, s8, c64; f8e4m3fn has its width in front of the rest.
    width = re.search(r"\d+", dtype)
    return int(width[0]) if width else 0
