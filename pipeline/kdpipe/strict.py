"""Plain values of YAML and JSON into dataclasses, strictly: a mistake is named, never ignored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml
from yaml.constructor import ConstructorError

from kdpipe.errors import CardError

T = TypeVar("T")


def digest_of(value: object) -> str:
    """Twelve hex digits of a JSON-able value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


class _Loader(yaml.SafeLoader):
    """Plain values; a key that stands twice in one place is refused, where YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ConstructorError(
                    None, None, f"key {key.value!r} stands twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> object:
    """Reads a YAML file of plain values.

    Raises:
        CardError: it is missing, unreadable, or no YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        raise CardError(f"{path} is missing: run kdpipe in the project's folder") from error
    except OSError as error:
        raise CardError(
            f"{path} cannot be read ({error.strerror}), expected a YAML file: make it readable"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).replace("\n", " ")
        raise CardError(f"{path} is no YAML: {line}") from error


def build(kind: type[T], values: object, where: str) -> T:
    """Makes a dataclass from plain values: unknown key, missing key, wrong type are refused.

    Args:
        kind: a dataclass of plain types, literals, tuples, mappings or other dataclasses.
        values: what YAML or JSON gave.
        where: file, and section, for the message.

    Raises:
        CardError: names `where`, the key, what was found and what was expected.
    """
    if not isinstance(values, Mapping):
        raise CardError(f"{where}: found {values!r}, expected keys and values")
    assert is_dataclass(kind)
    hints = _hints(kind)
    known = {f.name: f for f in fields(kind)}
    for key in values:
        if key not in known:
            raise CardError(f"{where}: unknown key {key!r}. Known: {', '.join(sorted(known))}.")
    for name, one in known.items():
        required = one.default is one.default_factory  # both are MISSING
        if required and name not in values:
            raise CardError(f"{where}: key {name!r} is missing ({_say(hints[name])})")
    checked = {k: _convert(hints[k], v, f"{where}: {k}") for k, v in values.items()}
    return cast("T", kind(**checked))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _wrong(hint: Any, value: object, where: str) -> CardError:
    return CardError(f"{where}: found {value!r}, expected {_say(hint)}")


def _convert(hint: Any, value: object, where: str) -> object:
    if type(value) is hint:
        return value
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in args:
            return None
        rest = [a for a in args if a is not NoneType]
        return _convert(rest[0], value, where)
    if origin is Literal:
        if value not in args:
            raise _wrong(hint, value, where)
        return value
    if is_dataclass(hint):
        return build(cast("type", hint), value, where)
    if origin is tuple:
        kinds = args[:1] * len(value) if args[-1] is ... and isinstance(value, list) else args
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise _wrong(hint, value, where)
        if all(type(one) is kind for one, kind in zip(value, kinds, strict=True)):
            return tuple(value)  # a ledger has millions
        return tuple(_convert(a, v, where) for a, v in zip(kinds, value, strict=True))
    if origin is not None:  # Mapping[str, X]
        if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
            raise _wrong(hint, value, where)
        return {k: _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is object:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            raise _wrong(hint, value, where) from None
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _wrong(hint, value, where)
    return value


def _say(hint: Any) -> str:
    args = get_args(hint)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(str(a) for a in args)
    if get_origin(hint) in (Union, UnionType):
        return " or ".join("nothing" if a is NoneType else _say(a) for a in args)
    if get_origin(hint) is tuple:
        return "a list of " + ", ".join("…" if a is ... else _say(a) for a in args)
    if get_origin(hint) is not None or is_dataclass(hint):
        return "keys and values"
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(hint, "a value")
