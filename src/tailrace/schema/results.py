"""How a function's return value becomes JSON that its declared schema fits.

A value is encoded, and what was encoded is decoded again as the declared type: that proves for
every kind of type that the peer, too, can read it as declared. Scalars of the exact type skip it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Set
from decimal import Decimal
from typing import Annotated, Any, cast, get_args, get_origin

import msgspec

from tailrace.errors import DefinitionError
from tailrace.schema import models
from tailrace.schema.complaints import Complaint, problems_of_pydantic, shorten
from tailrace.schema.hints import MISSING, is_pydantic, parts_of, read_signature
from tailrace.schema.types import decode_custom, description_of, encode_custom, schemas_of

__all__ = ["InvalidResult", "Result", "encode_value", "result_of"]

_SCALARS = (str, int, float, bool, type(None))
_ITERATORS = (AsyncIterator, AsyncIterable, AsyncGenerator)

_encode_any = msgspec.json.Encoder(enc_hook=encode_custom).encode


class InvalidResult(Complaint):
    """A function returned what its return annotation does not allow, or what has no JSON form.

    Attributes:
        message: For the log of the program whose function it is; it may quote the value.
        path: Of the value, e.g. ``result.lines[2]``.
    """


class Result:
    """How one function's return value becomes JSON.

    Attributes:
        schema: JSON Schema 2020-12 of what `encode` gives, always of an object; None where nothing is declared.
        wrapped: What the function returns is no object by its type, so it goes out as ``{"result": …}``.
        content: What it returns is declared to be made for people (text, images), and has no structure.
    """

    __slots__ = ("_encode", "content", "schema", "wrapped")

    def __init__(
        self, schema: dict[str, Any] | None, wrapped: bool, encode: Callable[[Any], bytes], *, content: bool = False
    ) -> None:
        self.schema = schema
        self.wrapped = wrapped
        self.content = content
        self._encode = encode

    def encode(self, value: Any) -> bytes:
        """Encode a return value as a JSON object.

        Without a declared type an object goes as it is and anything else wrapped, decided for each value.

        Raises:
            InvalidResult: The value does not fit the declared type, or has no JSON form.
        """
        return self._encode(value)


def result_of(fn: Callable[..., Any]) -> Result:
    """Read what a function returns, and make its schema and its encoder.

    An asynchronous generator counts as returning the list of what it yields.

    Raises:
        DefinitionError: The declared type has no JSON form.
    """
    signature = read_signature(fn)
    hint = signature.returns
    if inspect.isasyncgenfunction(fn):
        hint = _list_of_yielded(hint, signature.place)
    if hint is MISSING or hint is Any or hint is object or _is_content(hint):
        return Result(None, False, _encode_undeclared, content=_is_content(hint))
    if is_pydantic(hint):
        return _pydantic_result(hint, signature.place)
    return _msgspec_result(hint, signature.place)


# --- what is returned ---------------------------------------------------------------------------


def _list_of_yielded(hint: Any, place: str) -> Any:
    if hint is MISSING or hint is Any:
        return hint
    if get_origin(hint) not in _ITERATORS:
        raise DefinitionError(f"{place}: an asynchronous generator returns AsyncIterator[T], not {hint}")
    return list[get_args(hint)[0]]


def _is_content(hint: Any) -> bool:
    """Content of MCP (text, images, …) is made for people: it has no schema. Its classes carry this mark."""
    return any(getattr(part, "__tailrace_content__", False) is True for part in parts_of(hint))


def _msgspec_result(hint: Any, place: str) -> Result:
    (schema,), definitions = schemas_of([("the return annotation", hint)], place)
    schema, wrapped = _as_object(schema, definitions, description_of(hint, schema))
    decode = msgspec.json.Decoder(hint, dec_hook=decode_custom).decode
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if bare is hint and bare in _SCALARS:
        return Result(schema, wrapped, _scalar_encoder(bare, decode))
    return Result(schema, wrapped, _checking_encoder(decode, wrapped, normalise=_is_lenient(hint)))


def _pydantic_result(hint: Any, place: str) -> Result:
    adapter = models.result_adapter(hint, place)
    schemas, definitions = models.schemas({"result": adapter}, "serialization", place)
    (schema,) = schemas.values()
    schema, wrapped = _as_object(schema, definitions, description_of(hint, schema))

    def encode(value: Any) -> bytes:
        try:
            data = adapter.dump_json(adapter.validate_python(value), by_alias=True, warnings="error")
        except (ValueError, TypeError, RecursionError) as error:
            where, what, path = problems_of_pydantic(error, "result")[0][0]
            raise InvalidResult(f"the result does not fit its type at {where}: {what}", path) from None
        return b'{"result":' + data + b"}" if wrapped else data

    return Result(schema, wrapped, encode)


def _as_object(schema: dict[str, Any], definitions: dict[str, Any], about: str | None) -> tuple[dict[str, Any], bool]:
    """Make a schema of an object of any schema, and tell whether that needed a wrapping."""
    name = schema.get("$ref", "").rpartition("/")[2]
    whole: dict[str, Any] = dict(definitions[name]) if name else dict(schema)
    wrapped = whole.get("type") != "object"
    if wrapped:
        inner = {**schema, "description": about} if about else schema
        whole = {"type": "object", "properties": {"result": inner}, "required": ["result"]}
    elif about:
        whole["description"] = about
    if name and not wrapped and not _mentions([whole, definitions], "#/$defs/" + name):
        definitions = {key: value for key, value in definitions.items() if key != name}
    if definitions:
        whole["$defs"] = definitions
    return whole, wrapped


def _mentions(schema: Any, reference: str) -> bool:
    if isinstance(schema, list):
        return any(_mentions(value, reference) for value in cast("list[Any]", schema))
    if not isinstance(schema, dict):
        return False
    members = cast("dict[str, Any]", schema)
    return members.get("$ref") == reference or any(_mentions(value, reference) for value in members.values())


# --- encoders -----------------------------------------------------------------------------------


def _encode_undeclared(value: Any) -> bytes:
    data = encode_value(value)
    return data if data[:1] == b"{" else b'{"result":' + data + b"}"


def _scalar_encoder(hint: type, decode: Callable[[bytes], Any]) -> Callable[[Any], bytes]:
    check = _checking_encoder(decode, True)

    def encode(value: Any) -> bytes:
        if type(value) is not hint or (hint is float and not math.isfinite(value)):
            return check(value)
        return b'{"result":' + encode_value(value) + b"}"

    return encode


def _is_lenient(hint: Any) -> bool:
    """msgspec takes a number for a Decimal, and repeated items for a set; the schema admits neither."""
    return any(part is Decimal or (isinstance(part, type) and issubclass(part, Set)) for part in parts_of(hint))


def _checking_encoder(
    decode: Callable[[bytes], Any], wrapped: bool, *, normalise: bool = False
) -> Callable[[Any], bytes]:
    def encode(value: Any) -> bytes:
        data = encode_value(value)
        try:
            checked = decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            text, _, path = str(error).replace("`", "").partition(" - at $")
            text = text[:1].lower() + shorten(text[1:], 300)
            raise InvalidResult(f"the result does not fit its type at result{path}: {text}", f"result{path}") from None
        data = encode_value(checked) if normalise else data
        return b'{"result":' + data + b"}" if wrapped else data

    return encode


def encode_value(value: Any) -> bytes:
    """JSON of any value whose type is not declared.

    Raises:
        InvalidResult: It has no JSON form.
    """
    try:
        return _encode_any(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidResult(f"the result has no JSON form: {shorten(str(error), 500)}") from error
