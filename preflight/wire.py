"""Pulumi's wire values to plain Python and back; secrets and unknowns stay marked, and no repr shows a secret."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pulumi
from google.protobuf import struct_pb2
from pulumi.runtime import rpc

_SIGNATURE: Final = rpc._special_sig_key
_SECRET: Final = rpc._special_secret_sig
_RESOURCE: Final = rpc._special_resource_sig


class _Unknown:
    """A value that exists only after the deployment."""

    def __repr__(self) -> str:
        return "[unknown]"

    def __bool__(self) -> bool:
        raise TypeError("an unknown value is neither true nor false: compare it with `is UNKNOWN`")


UNKNOWN: Final = _Unknown()


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that the program marked secret. `reveal()` is the only way to it."""

    _value: Any

    def reveal(self) -> Any:
        """The value in clear."""
        return self._value

    def __repr__(self) -> str:
        return "[secret]"


def decode(value: struct_pb2.Value) -> Any:
    """A wire value as plain Python: whole numbers as int, Secret and UNKNOWN marked, assets as the SDK's objects."""
    match value.WhichOneof("kind"):
        case "struct_value":
            return _decode_struct(value.struct_value)
        case "list_value":
            return [decode(item) for item in value.list_value.values]
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return UNKNOWN if value.string_value == rpc.UNKNOWN else value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def decode_object(message: struct_pb2.Struct) -> dict[str, Any]:
    """The properties of one registration."""
    return {key: decode(value) for key, value in message.fields.items()}


def _decode_struct(message: struct_pb2.Struct) -> Any:
    signature = message.fields[_SIGNATURE].string_value if _SIGNATURE in message.fields else None
    if signature is None:
        return decode_object(message)
    if signature == _SECRET:
        return Secret(decode(message.fields["value"]))
    if signature == _RESOURCE:
        return {key: decode(value) for key, value in message.fields.items() if key in {"urn", "id"}}
    return rpc.deserialize_property(message)


def encode(value: Any) -> struct_pb2.Value:
    """Plain Python as a wire value; the inverse of `decode` for everything but assets, which raise TypeError."""
    match value:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=value)
        case int() | float():
            return struct_pb2.Value(number_value=value)
        case str():
            return struct_pb2.Value(string_value=value)
        case _Unknown():
            return struct_pb2.Value(string_value=rpc.UNKNOWN)
        case Secret():
            return secret(encode(value.reveal()))
        case Mapping():
            return struct_pb2.Value(struct_value=encode_object(value))
        case list() | tuple():
            return struct_pb2.Value(list_value=struct_pb2.ListValue(values=[encode(item) for item in value]))
    raise TypeError(f"{type(value).__name__} has no wire form")


def encode_object(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """The properties of one answer."""
    return struct_pb2.Struct(fields={key: encode(value) for key, value in values.items()})


def secret(value: struct_pb2.Value) -> struct_pb2.Value:
    """The same value marked secret."""
    fields = {_SIGNATURE: struct_pb2.Value(string_value=_SECRET), "value": value}
    return struct_pb2.Value(struct_value=struct_pb2.Struct(fields=fields))


def plain(value: Any) -> Any:
    """The value with every Secret opened; UNKNOWN stays."""
    if isinstance(value, Secret):
        return plain(value.reveal())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def printable(value: Any) -> Any:
    """The value as JSON can hold it, with secrets, unknowns and assets as bracketed words."""
    if isinstance(value, Secret) or value is UNKNOWN:
        return repr(value)
    if isinstance(value, dict):
        return {key: printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [printable(item) for item in value]
    if isinstance(value, pulumi.Asset | pulumi.Archive):
        return f"[{type(value).__name__}]"
    return value


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a value with its dotted path; a Secret is a leaf."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from walk(item, f"{path}[{index}]")
    else:
        yield path, value


def holds_secret(value: Any) -> bool:
    """Whether any leaf of the value is secret."""
    return any(isinstance(leaf, Secret) for _, leaf in walk(value))
