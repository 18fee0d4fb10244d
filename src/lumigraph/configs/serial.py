"""Config dataclasses to JSON and back: typed, and strict about keys it does not know."""

import dataclasses
import math
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lumigraph.errors import LumigraphError

C = TypeVar("C")


def config_to_json(config: Any) -> dict[str, Any]:
    """A frozen config dataclass as plain JSON types: nested objects, lists for tuples, strings for paths."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def config_from_json(config_class: type[C], data: Any, *, where: str | Path | None = None) -> C:
    """The inverse of `config_to_json`.

    Keys that are absent take the dataclass's default. Unknown keys, wrong types and values that the class refuses
    raise `LumigraphError`, which names the key and `where` it was read.
    """
    try:
        return _build(config_class, data, config_class.__name__)
    except _MismatchError as mismatch:
        raise LumigraphError(
            str(mismatch), where=where, todo="write it with this version of lumigraph, or mend the key"
        ) from None


class _MismatchError(Exception):
    """A value that does not fit its field; the message names the field."""


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_to_json(value)
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a config cannot hold {type(value).__name__}")


def _build(config_class: type[C], data: Any, path: str) -> C:
    if not isinstance(data, dict):
        raise _MismatchError(f"{path} should be an object, not {_name(data)}")
    fields = {field.name: field for field in dataclasses.fields(config_class) if field.init}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise _MismatchError(f"{path} has no option {', '.join(map(repr, unknown))}")
    missing = [name for name, field in fields.items() if name not in data and _required(field)]
    if missing:
        raise _MismatchError(f"{path} lacks {', '.join(map(repr, missing))}")
    hints = get_type_hints(config_class)
    values = {name: _convert(hints[name], value, f"{path}.{name}") for name, value in data.items()}
    try:
        return config_class(**values)
    except (ValueError, TypeError) as error:
        raise _MismatchError(f"{path}: {error}") from None


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value`, as it came from JSON, as the type `hint`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in arguments or type(value) not in {type(item) for item in arguments}:
            raise _MismatchError(f"{path} should be one of {', '.join(map(repr, arguments))}, not {value!r}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, path)
    if origin is tuple:
        return _convert_tuple(arguments, value, path)
    if origin is dict:
        if not isinstance(value, dict):
            raise _MismatchError(f"{path} should be an object, not {_name(value)}")
        return {key: _convert(arguments[1], item, f"{path}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, path)  # type: ignore[arg-type]
    return _convert_scalar(hint, value, path)


def _convert_union(arguments: tuple, value: Any, path: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    choices = [argument for argument in arguments if argument is not type(None)]
    for choice in choices[:-1]:
        try:
            return _convert(choice, value, path)
        except _MismatchError:
            continue
    return _convert(choices[-1], value, path)


def _convert_tuple(arguments: tuple, value: Any, path: str) -> tuple:
    if not isinstance(value, list):
        raise _MismatchError(f"{path} should be a list, not {_name(value)}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise _MismatchError(f"{path} should have {len(arguments)} values, not {len(value)}")
    return tuple(
        _convert(hint, item, f"{path}[{i}]")
        for i, (hint, item) in enumerate(zip(arguments, value, strict=True))
    )


def _convert_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise _MismatchError(f"{path} should be a finite number, not {value}")
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise _MismatchError(f"{path} should be {getattr(hint, '__name__', hint)}, not {_name(value)}")


def _name(value: Any) -> str:
    return "null" if value is None else f"{value!r:.40}"
