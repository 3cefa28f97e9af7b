"""Files that appear whole or not at all, and numbers that survive JSON."""

import enum
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Writes a file under a temporary name beside its place and renames it when it is whole.

    Args:
        path: where the file belongs.
        write: called with the temporary path.

    Returns:
        `path`. If `write` raises, nothing is left behind and the old file stays.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_atomically(folder / "a.txt", lambda temporary: temporary.write_text("whole")).name
        'a.txt'
    """
    # The suffix stays last: writers such as matplotlib choose the format by it.
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        # mkstemp makes private files; records are to be read by colleagues too.
        temporary.chmod(0o666 & ~_umask())
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_json(path: Path, value: object) -> Path:
    """Writes a value as indented JSON, whole or not at all."""
    text = msgspec.json.format(encode_json(value), indent=2) + b"\n"
    return write_atomically(path, lambda temporary: temporary.write_bytes(text))


def read_json(path: Path, default: Any) -> Any:
    """Reads a JSON file of a record; the default if it is not there."""
    if not path.exists():
        return default
    try:
        return msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise ValueError(
            f"{path} is not JSON ({error}): it was changed after it was written."
        ) from error


def encode_json(value: object, *, sort: bool = False) -> bytes:
    """Encodes plain data, NumPy and JAX arrays as JSON; what is not finite becomes a string."""
    return msgspec.json.encode(encode_nonfinite(to_plain(value)), order="sorted" if sort else None)


def to_plain(value: Any) -> Any:
    """Turns arrays, paths, enumerations and tuples into what JSON knows."""
    if isinstance(value, enum.Enum):
        return to_plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return to_plain(msgspec.structs.asdict(value))
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return to_plain(number_array(value).tolist())
    return str(value)


def number_array(value: Any) -> np.ndarray:
    """The NumPy array of a value; bfloat16 and its like, which Python cannot list, as float32."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def encode_nonfinite(value: Any) -> Any:
    """Spells floats that are not finite as strings, so that JSON loses nothing.

    >>> encode_nonfinite([1.0, float("nan"), float("-inf")])
    [1.0, 'NaN', '-Infinity']
    """
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: encode_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [encode_nonfinite(item) for item in value]
    return value


def decode_nonfinite(value: Any) -> Any:
    """Undoes `encode_nonfinite` in a measurement, which holds no other strings.

    >>> decode_nonfinite([1.0, "-Infinity"])
    [1.0, -inf]
    """
    if isinstance(value, str):
        return _NONFINITE[value]
    if isinstance(value, list):
        return [decode_nonfinite(item) for item in value]
    return value


def to_json_safe(value: Any) -> Any:
    """Makes plain data for strict JSON: what is not finite is `None`, and named in `result`.

    Args:
        value: nested mappings and sequences of numbers, strings and arrays.

    Returns:
        the same as dicts, lists and scalars. A mapping with a number in it that is not finite gains
        (or lengthens) the field `result`, which names the field and its value.

    Example:
        >>> to_json_safe({"lr": 0.1, "ratio": float("nan")})
        {'lr': 0.1, 'ratio': None, 'result': 'ratio is nan'}
    """
    return _safe(to_plain(value), "", [])


def _safe(value: Any, name: str, messages: list[str]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        messages.append(f"{name} is {value}" if name else f"the value is {value}")
        return None
    if isinstance(value, list):
        return [_safe(item, f"{name}[{i}]", messages) for i, item in enumerate(value)]
    if isinstance(value, dict):
        own: list[str] = []
        result = {key: _safe(item, key, own) for key, item in value.items()}
        if own:
            before = [str(value["result"])] if value.get("result") else []
            result["result"] = "; ".join(before + own)
        return result
    return value
