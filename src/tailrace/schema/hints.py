"""A function's signature with its annotations resolved to types, and looking into such types.

Annotations may be strings (`from __future__ import annotations`), may name types that are local to
the function around the definition, and `Context` may be imported for the type checker only. What
the types mean as JSON is left to `arguments` and `results`.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Annotated, Any, Union, cast, get_args, get_origin

from tailrace.core.context import Context
from tailrace.errors import DefinitionError

__all__ = [
    "MISSING",
    "Parameter",
    "Signature",
    "holds_numbered_keys",
    "is_pydantic",
    "parts_of",
    "place_of",
    "read_signature",
]


class _Missing:
    """Stands for "not given" where None is a value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a function.

    Attributes:
        name: As the function declares it.
        hint: Resolved; `Any` where it has none.
        default: `MISSING` where it has none.
        alias: Its name in JSON where that differs (pydantic's ``Field(alias=...)``), or None.
    """

    name: str
    hint: Any
    default: Any
    alias: str | None = None

    @property
    def json_name(self) -> str:
        """Its name in JSON."""
        return self.alias or self.name


@dataclasses.dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes and gives.

    Attributes:
        place: Names the function, its file and line, for errors.
        parameters: In order of declaration, without the one that takes the `Context`.
        context: The name of the parameter that takes the `Context`, or None.
        returns: The resolved hint of what is returned, or `MISSING`.
    """

    place: str
    parameters: tuple[Parameter, ...]
    context: str | None
    returns: Any


def place_of(fn: Callable[..., Any]) -> str:
    """Name a function for an error: ``place() at orders.py:12``."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    name = getattr(fn, "__qualname__", None) or repr(fn)
    if code is None:
        return f"{name}()"
    return f"{name}() at {code.co_filename}:{code.co_firstlineno}"


def read_signature(fn: Callable[..., Any]) -> Signature:
    """Read a function's parameters and resolve their annotations.

    Raises:
        DefinitionError: It is no function, or one that wants its ``self``; it takes ``*args``, ``**kwargs``, a
            positional-only parameter or two contexts; or an annotation names something that is not defined.
    """
    place = place_of(fn)
    if not inspect.isroutine(fn) or not hasattr(inspect.unwrap(fn), "__code__"):
        raise DefinitionError(f"{place} is not a Python function; decorate a function that calls it")
    hints = _resolve(fn, place)
    parameters: list[Parameter] = []
    context: str | None = None
    for given in _declared(fn):
        hint = hints.get(given.name, Any)
        _check_kind(given, place)
        if given.name == "ctx" and given.name not in hints:
            raise DefinitionError(f"{place}: the Context is found by its annotation: write ctx: Context")
        if given.name == "self" and given.name not in hints:
            raise DefinitionError(
                f"{place} is a method of a class: give the one of an object, as in svc.tool(shop.place)"
            )
        if not _is_context(hint):
            default = MISSING if given.default is inspect.Parameter.empty else given.default
            parameters.append(Parameter(given.name, Any if hint is object else hint, default))
        elif context is None:
            context = given.name
        else:
            raise DefinitionError(f"{place}: parameters {context!r} and {given.name!r} both take the Context")
    return Signature(place, tuple(parameters), context, hints.get("return", MISSING))


def parts_of(hint: Any) -> Iterator[Any]:
    """Walk a type: itself, what it is made of, its fields' types, and all metadata of ``Annotated``."""
    seen: set[int] = set()
    waiting = [hint]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting.extend(_inside(part))


def holds_numbered_keys(hint: Any) -> bool:
    """Whether a value of the type may be a set, or a dictionary whose keys are no strings: what Python finds by a hash
    that whoever gives the numbers can foresee."""
    return any(_is_keyed(part) for part in parts_of(hint))


def is_pydantic(hint: Any) -> bool:
    """Whether a type needs pydantic: it holds one of its models, types or ``Field(...)`` constraints."""
    return any(_from_pydantic(part) for part in parts_of(hint))


def _is_keyed(part: Any) -> bool:
    origin: Any = get_origin(part) or part
    if not isinstance(origin, type):
        return False
    if issubclass(origin, Set):
        return get_args(part)[:1] != (str,)
    return issubclass(origin, Mapping) and get_args(part)[:1] not in ((), (str,))


# --- resolving ----------------------------------------------------------------------------------


def _resolve(fn: Callable[..., Any], place: str) -> dict[str, Any]:
    origin: Any = inspect.unwrap(fn)
    module: dict[str, Any] = origin.__globals__
    local = _names_around(origin)
    for name, value in _names_for_type_checkers().items():
        if name not in module:
            local.setdefault(name, value)
    return {name: _evaluate(name, raw, module, local, place) for name, raw in _raw_annotations(origin).items()}


def _declared(fn: Callable[..., Any]) -> list[inspect.Parameter]:
    if sys.version_info >= (3, 14):
        import annotationlib

        return list(inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF).parameters.values())
    return list(inspect.signature(fn).parameters.values())


def _raw_annotations(fn: Any) -> dict[str, Any]:
    if sys.version_info >= (3, 14):  # annotations are computed when asked for; unknown names must not raise here
        import annotationlib

        return annotationlib.get_annotations(fn, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(fn)


def _evaluate(name: str, raw: Any, module: dict[str, Any], local: dict[str, Any], place: str) -> Any:
    def holder() -> None: ...

    holder.__annotations__ = {name: raw}
    what = "the return annotation" if name == "return" else f"parameter {name!r}"
    try:
        return typing.get_type_hints(holder, module, local, include_extras=True)[name]
    except NameError as error:
        raise DefinitionError(
            f"{place}: {what}: {error}: define or import it above the function, and not under `if TYPE_CHECKING:`"
        ) from None
    except Exception as error:
        raise DefinitionError(f"{place}: {what}: cannot evaluate the annotation {raw!r}: {error}") from error


def _names_around(fn: Any) -> dict[str, Any]:
    """The local names visible where `fn` is being defined: types made inside a function live only there."""
    names: dict[str, Any] = {}
    outer = _enclosing(fn.__qualname__)
    frame = inspect.currentframe() if outer else None
    while frame is not None:
        code = frame.f_code
        if code.co_qualname in outer and code.co_filename == fn.__code__.co_filename:
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # the name is not bound yet
            continue
    return names


def _enclosing(qualname: str) -> set[str]:
    around = qualname.split(".<locals>.")[:-1]
    return {".<locals>.".join(around[: depth + 1]) for depth in range(len(around))}


def _names_for_type_checkers() -> dict[str, Any]:
    """Names that users import under ``if TYPE_CHECKING:`` because only annotations mention them."""
    return {"Context": Context, "tailrace": sys.modules.get("tailrace")}


def _check_kind(given: inspect.Parameter, place: str) -> None:
    if given.kind is inspect.Parameter.VAR_POSITIONAL:
        raise DefinitionError(f"{place}: *{given.name} has no name in JSON; take a list instead")
    if given.kind is inspect.Parameter.VAR_KEYWORD:
        raise DefinitionError(f"{place}: **{given.name} has no schema; name the parameters, or take a dict")
    if given.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise DefinitionError(f"{place}: parameter {given.name!r} is positional-only; arguments are passed by name")


def _is_context(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        rest = [arg for arg in get_args(hint) if arg is not types.NoneType]
        hint = rest[0] if len(rest) == 1 else None
    if not isinstance(hint, type):
        return False
    of_a_door = hasattr(cast("Any", hint), "__tailrace_context__")  # it stands around ours
    return of_a_door or issubclass(hint, Context)


# --- looking inside types -----------------------------------------------------------------------


def _inside(part: Any) -> list[Any]:
    if get_origin(part) is Annotated:
        return [part.__origin__, *part.__metadata__]
    if get_origin(part) is not None:
        return [get_origin(part), *get_args(part)]
    if isinstance(part, typing.NewType):
        return [part.__supertype__]
    if type(part).__name__ == "TypeAliasType":
        return [part.__value__]
    return _field_types(cast("type[Any]", part)) if isinstance(part, type) else []


def _field_types(cls: type[Any]) -> list[Any]:
    marks = (
        "__dataclass_fields__",
        "__struct_fields__",
        "__required_keys__",
        "_field_defaults",
    )  # the last: NamedTuple
    if not any(hasattr(cls, mark) for mark in marks):
        return []
    try:
        return list(typing.get_type_hints(cls, include_extras=True).values())
    except Exception:  # what it cannot resolve, the schema will complain about
        return []


def _from_pydantic(part: Any) -> bool:
    if "pydantic" not in sys.modules:
        return False
    if isinstance(part, type):
        return hasattr(part, "__pydantic_core_schema__") or hasattr(part, "__get_pydantic_core_schema__")
    # Constraints such as PositiveInt's come from annotated_types, which msgspec would ignore silently.
    return type(part).__module__.partition(".")[0] in ("pydantic", "pydantic_core", "annotated_types")
