"""How a function's arguments come out of JSON: one schema, one decoder, one clear complaint.

The whole object of arguments is decoded by msgspec in a single call into a struct made for the
function, so a missing or unknown argument is found there. Only parameters whose types come from
pydantic are kept raw by it and handed to pydantic one by one. Where the program gives a schema of its
own, that one is shown and checked first; the hints then say what the function takes of it.
"""

from __future__ import annotations

import copy
import itertools
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Optional, cast, get_args, get_origin

import msgspec
from msgspec.structs import asdict

from tailrace.errors import DefinitionError
from tailrace.schema import models
from tailrace.schema.complaints import Complaint, complaint_of_msgspec, complaint_of_pydantic
from tailrace.schema.docstrings import parse_docstring
from tailrace.schema.given import Check, compile_schema
from tailrace.schema.hints import MISSING, Parameter, holds_numbered_keys, is_pydantic, read_signature
from tailrace.schema.types import decode_custom, description_of, merge_schemas, schemas_of, to_plain

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["Arguments", "InvalidArguments", "arguments_of"]


class InvalidArguments(Complaint):
    """A call's arguments do not fit: which one, what was expected, and what was given.

    Attributes:
        message: What the caller reads, e.g. ``argument 'order.lines[2].qty': expected int, got str``.
        path: Of the value, e.g. ``order.lines[2].qty``; empty where the object of arguments itself is meant.
    """


class Arguments:
    """How one function's arguments come out of JSON.

    Attributes:
        schema: JSON Schema 2020-12 of the object of arguments; properties in order of declaration.
        names: The arguments' names in JSON, in order of declaration.
        parameters: The parameters that take them.
    """

    __slots__ = ("_adapters", "_check", "_decode", "_keyed", "_struct", "names", "parameters", "schema")

    def __init__(
        self,
        schema: dict[str, Any],
        struct: type[msgspec.Struct],
        adapters: list[tuple[Parameter, TypeAdapter[Any]]],
        check: Check | None = None,
        parameters: Sequence[Parameter] = (),
    ) -> None:
        self.schema = schema
        self.parameters = tuple(parameters)
        self._struct = struct
        self.names: tuple[str, ...] = tuple(schema.get("properties", ()))
        self._check = check
        self._decode: Callable[[Any], Any] = msgspec.json.Decoder(struct, dec_hook=decode_custom).decode
        self._adapters = adapters
        self._keyed = any(holds_numbered_keys(parameter.hint) for parameter in parameters)

    def decode(self, raw: bytes | msgspec.Raw | None) -> dict[str, Any]:
        """Decode a JSON object into keyword arguments; defaults are filled in.

        Args:
            raw: The object; None, empty and ``null`` mean no arguments.

        Raises:
            InvalidArguments: It does not fit the schema, or is not JSON.
        """
        if self._keyed and raw and len(raw) > _MANY * _LONG and _too_many_collide(raw):
            text = f"arguments have more than {_MANY:,} numbers of {_LONG} digits, some of them in a set or as keys"
            raise InvalidArguments(text)
        try:
            if self._check is not None:
                self._check_schema(self._check, raw)
            kwargs = asdict(self._decode(raw or b"{}"))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if raw and bytes(raw).strip() == b"null":
                return self.decode(None)
            if raw and "got `float`" in str(error) and (whole := _WHOLE.sub(_cut_fraction, raw)) != raw:
                return self.decode(whole)
            raise InvalidArguments(*complaint_of_msgspec(error, self.schema)) from None
        return self._validate(kwargs) if self._adapters else kwargs

    def converter(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """A function that does as `decode` for arguments that are Python data already: those of a protobuf message.

        It raises `InvalidArguments` as `decode` does.
        """
        raw = {parameter.name for parameter, _ in self._adapters}
        struct = self._struct
        if raw:
            fields = [(p.name, Any if p.name in raw else p.hint, _field(p)) for p in self.parameters]
            struct = msgspec.defstruct(struct.__name__, fields, kw_only=True)
        check, adapters = self._check, self._adapters

        def convert(plain: dict[str, Any]) -> dict[str, Any]:
            complaint = None if check is None else check(msgspec.to_builtins(plain))
            if complaint is not None:
                raise InvalidArguments(*complaint)
            try:
                kwargs = asdict(msgspec.convert(plain, struct, dec_hook=decode_custom))
            except (msgspec.ValidationError, RecursionError) as error:
                raise InvalidArguments(*complaint_of_msgspec(error, self.schema)) from None
            for parameter, adapter in adapters:
                if parameter.json_name in plain:
                    try:
                        kwargs[parameter.name] = adapter.validate_python(kwargs[parameter.name])
                    except ValueError as error:
                        raise InvalidArguments(*complaint_of_pydantic(error, parameter.json_name)) from None
            return kwargs

        return convert

    def _check_schema(self, check: Check, raw: bytes | msgspec.Raw | None) -> None:
        value = msgspec.json.decode(raw or b"{}")
        complaint = None if value is None else check(value)  # null is no arguments, see `decode`
        if complaint is not None:
            raise InvalidArguments(*complaint)

    def _validate(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        for parameter, adapter in self._adapters:
            value = kwargs[parameter.name]
            if type(value) is msgspec.Raw:  # anything else is the default
                try:
                    kwargs[parameter.name] = adapter.validate_json(bytes(value))
                except ValueError as error:
                    raise InvalidArguments(*complaint_of_pydantic(error, parameter.json_name)) from None
        return kwargs


# The hash of an integer is its remainder by 2**61 - 1. Of those with 64 bits at most eight have the same one;
# longer ones can all have it, and a set then takes the square of their number: 150,000, in 4 MiB, held the loop
# up for minutes.
_LONG = 20  # digits
_MANY = 4096  # of them: a tenth of a second at the worst
_LARGE = re.compile(rb"[0-9_]{%d,}" % _LONG)  # pydantic reads "1_000" as well


def _too_many_collide(raw: bytes | msgspec.Raw) -> bool:
    return next(itertools.islice(_LARGE.finditer(raw), _MANY, None), None) is not None


# To JSON Schema 1.0 is an integer (2020-12 validation, 6.1.1), to msgspec it is none. Strings are passed over.
_WHOLE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9]+(\.0+)(?=[\s,}\]])')


def _cut_fraction(token: re.Match[bytes]) -> bytes:
    return token[0] if token[1] is None else token[0][: -len(token[1])]


def arguments_of(
    fn: Callable[..., Any], *, skip: frozenset[str] = frozenset(), given: Mapping[str, Any] | None = None
) -> Arguments:
    """Read what a function takes, and make its schema and its decoder.

    Args:
        fn: The function; a parameter annotated with `Context` is left out by itself.
        skip: Names of further parameters that do not come from the caller.
        given: A JSON Schema to show and to check instead of the one that the hints make. The function has a parameter
            for each of its properties; what else it admits does not reach the function.

    Raises:
        DefinitionError: A parameter cannot come from JSON; `given` is not usable, or does not go with the parameters;
            names the function, its file and line.
    """
    signature = read_signature(fn)
    parameters = [_admit_none(models.unfold_default(p)) for p in signature.parameters if p.name not in skip]
    described = parse_docstring(fn.__doc__, {p.name for p in parameters}).parameters
    adapters = [(p, models.adapter(p, signature.place)) for p in parameters if is_pydantic(p.hint)]
    raw = {parameter.name for parameter, _ in adapters}
    if given is not None:
        schema, check = compile_schema(given, signature.place)
        _compare(schema, parameters, signature.place)
        struct = _struct(fn.__name__, parameters, raw, signature.place, open=True)
        return Arguments(schema, struct, adapters, check, parameters)
    properties, definitions = _properties(parameters, adapters, signature.place)
    for parameter in parameters:
        _annotate(properties[parameter.json_name], parameter, described.get(parameter.name))
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    required = [p.json_name for p in parameters if p.default is MISSING]
    if required:
        schema["required"] = required
    schema["additionalProperties"] = False
    if definitions:
        schema["$defs"] = definitions
    return Arguments(schema, _struct(fn.__name__, parameters, raw, signature.place), adapters, None, parameters)


# --- the schema ---------------------------------------------------------------------------------


def _properties(
    parameters: list[Parameter], adapters: list[tuple[Parameter, TypeAdapter[Any]]], place: str
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    modelled = {parameter.json_name: adapter for parameter, adapter in adapters}
    plain = [p for p in parameters if p.json_name not in modelled]
    schemas, definitions = schemas_of([(f"parameter {p.name!r}", p.hint) for p in plain], place)
    properties = dict(zip((p.json_name for p in plain), schemas, strict=True))
    if modelled:
        more, definitions = merge_schemas(*models.schemas(modelled, "validation", place), definitions)
        properties.update(more)
    return {p.json_name: properties[p.json_name] for p in parameters}, definitions


def _compare(schema: dict[str, Any], parameters: list[Parameter], place: str) -> None:
    """Whether a schema that was given and the function it is for go together."""
    properties = schema.get("properties", {})
    names = {p.json_name for p in parameters}
    for name in properties:
        if name not in names:
            raise DefinitionError(f"{place}: input_schema has {name!r}, which is no parameter of the function")
    for parameter in parameters:
        if parameter.default is MISSING and parameter.json_name not in schema.get("required", ()):
            raise DefinitionError(
                f"{place}: parameter {parameter.name!r} has no default, and input_schema does not require it"
            )


def _annotate(schema: dict[str, Any], parameter: Parameter, documented: str | None) -> None:
    description = description_of(parameter.hint, schema) or documented
    if description:
        schema["description"] = description
    if parameter.default is not MISSING and not isinstance(parameter.default, models.Factory):
        default = to_plain(parameter.default)
        if default is not MISSING:
            schema["default"] = default


def _admit_none(parameter: Parameter) -> Parameter:
    """``x: str = None`` is common, and means that None may be passed."""
    hint = get_args(parameter.hint)[0] if get_origin(parameter.hint) is Annotated else parameter.hint
    if parameter.default is not None or hint in (Any, None, types.NoneType) or types.NoneType in get_args(hint):
        return parameter
    return Parameter(parameter.name, Optional[parameter.hint], None, parameter.alias)  # noqa: UP045 - also of strings


# --- the decoder --------------------------------------------------------------------------------


def _struct(
    name: str, parameters: list[Parameter], raw: set[str], place: str, *, open: bool = False
) -> type[msgspec.Struct]:
    fields = [(p.name, msgspec.Raw if p.name in raw else p.hint, _field(p)) for p in parameters]
    try:
        return msgspec.defstruct(name, fields, forbid_unknown_fields=not open, kw_only=True)
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"{place}: {error}") from error


def _field(parameter: Parameter) -> Any:
    default = parameter.default
    if default is MISSING:
        return msgspec.field(name=parameter.alias)
    if isinstance(default, models.Factory):
        return msgspec.field(name=parameter.alias, default_factory=default.make)
    if isinstance(default, (list, dict, set, bytearray)):  # each call gets its own
        mutable = cast("Any", default)
        return msgspec.field(name=parameter.alias, default_factory=lambda: copy.copy(mutable))
    return msgspec.field(name=parameter.alias, default=default)
