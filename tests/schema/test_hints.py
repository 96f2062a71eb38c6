"""Annotations are found whichever way a program writes them: as types, as strings, local, or for checkers only."""

from __future__ import annotations

import functools
import importlib.util
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NewType, TypedDict

import pytest
from annotated_types import Gt
from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType

from tailrace import Context, DefinitionError
from tailrace.schema import MISSING, Parameter, place_of, read_signature
from tailrace.schema.hints import is_pydantic

Gt1 = Annotated[int, Gt(1)]  # as pydantic's own PositiveInt is made
Load = Callable[[str], Any]


@pytest.fixture(params=["", "from __future__ import annotations\n"], ids=["evaluated", "strings"])
def load(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Write a module, with annotations of either kind, and import it."""

    def write(source: str) -> Any:
        path = tmp_path / "module.py"
        path.write_text(request.param + textwrap.dedent(source))
        spec = importlib.util.spec_from_file_location("module", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "module", module)  # dataclasses look there
        spec.loader.exec_module(module)
        return module

    return write


def test_parameters_the_context_and_the_result_are_read(load: Load) -> None:
    module = load("""
        from tailrace import Context
        async def place(item: str, ctx: Context, anything, qty: "int" = 1) -> list["str"]: ...
    """)
    signature = read_signature(module.place)
    assert signature.parameters == (
        Parameter("item", str, MISSING),
        Parameter("anything", Any, MISSING),
        Parameter("qty", int, 1),
    )
    assert signature.context == "ctx"
    assert signature.returns == list[str]
    assert repr(signature.parameters[0]) == "Parameter(name='item', hint=<class 'str'>, default=MISSING, alias=None)"


@pytest.mark.parametrize(
    "annotation",
    [
        "Context",
        "'Context'",
        "Context | None",
        "Optional[Context]",
        "Annotated[Context, 'mine']",
        "tailrace.Context",
        "Mine",
        "core.Context",
    ],
)
def test_the_context_is_found_however_it_is_named(load: Load, annotation: str) -> None:
    module = load(f"""
        from typing import Annotated, Optional
        import tailrace
        from tailrace import Context
        from tailrace.core import context as core
        class Mine(Context): ...
        def fn(a: int, it: {annotation}): ...
    """)
    signature = read_signature(module.fn)
    assert signature.context == "it"
    assert [parameter.name for parameter in signature.parameters] == ["a"]


def test_a_class_called_context_of_the_users_own_is_an_ordinary_type(load: Load) -> None:
    module = load("""
        class Context: ...
        def fn(it: "Context"): ...
    """)
    assert read_signature(module.fn).context is None


def test_the_context_may_be_imported_for_the_type_checker_only(load: Load) -> None:
    module = load("""
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from tailrace import Context
        def fn(ctx: "Context", again: "int"): ...
    """)
    assert read_signature(module.fn).context == "ctx"


def test_types_that_are_local_to_a_function_are_found(load: Load) -> None:
    module = load("""
        from dataclasses import dataclass
        class Order: "the wrong one"
        def outer(read):
            @dataclass
            class Order: a: int
            def inner():
                class Other: ...
                def fn(x: Order, y: list[Order], z: "Other") -> Order: ...
                return read(fn), Order, Other
            return inner()
    """)
    signature, order, other = module.outer(read_signature)
    assert [parameter.hint for parameter in signature.parameters] == [order, list[order], other]
    assert signature.returns is order


def test_names_that_the_function_itself_closes_over_are_found(load: Load) -> None:
    module = load("""
        def outer():
            class Order: ...
            def fn(x: "Order"):
                return Order, later
            return fn, Order
            later = 1
    """)
    fn, order = module.outer()
    assert read_signature(fn).parameters == (Parameter("x", order, MISSING),)


def test_pydantic_is_seen_wherever_a_type_holds_it() -> None:
    class Model(BaseModel):
        a: int

    @dataclass
    class Holder:
        model: Model

    class Plain(TypedDict):
        unknown: Nowhere  # type: ignore[name-defined] # noqa: F821

    Holder.__annotations__["model"] = Model
    named = NewType("named", Model)
    alias = TypeAliasType("alias", list[Model])
    for hint in (Model, list[Model], dict[str, Model | None], Holder, named, alias, Annotated[int, Field(ge=1)], Gt1):
        assert is_pydantic(hint)
    for hint in (int, list[str], Plain, Any, NewType("other", int), Annotated[int, "text"]):
        assert not is_pydantic(hint)


def test_wrapped_functions_and_methods_are_read_as_what_they_wrap(load: Load) -> None:
    module = load("""
        import functools
        def logged(fn):
            @functools.wraps(fn)
            def wrapper(*args, **kwargs): return fn(*args, **kwargs)
            return wrapper
        @logged
        def fn(a: int) -> str: ...
        class Shop:
            def place(self, item: "str") -> "Shop": ...
    """)
    assert read_signature(module.fn).parameters == (Parameter("a", int, MISSING),)
    assert read_signature(module.Shop().place).parameters == (Parameter("item", str, MISSING),)
    assert read_signature(module.Shop().place).returns is module.Shop


def test_a_name_that_is_not_defined_is_refused_with_its_place(load: Load) -> None:
    module = load("""
        def parameter(a: int, b: "Later"): ...
        def result() -> "list[Later]": ...
    """)
    with pytest.raises(DefinitionError, match=r"parameter\(\) at .*module.py:\d+: parameter 'b': name 'Later'"):
        read_signature(module.parameter)
    with pytest.raises(DefinitionError, match=r"the return annotation: name 'Later' is not defined"):
        read_signature(module.result)


def test_an_annotation_that_is_no_type_is_refused(load: Load) -> None:
    module = load("def fn(a: '1 +'): ...")
    with pytest.raises(DefinitionError, match="parameter 'a': cannot evaluate the annotation"):
        read_signature(module.fn)


class Callme:
    def __call__(self, a: int) -> int:
        return a


@pytest.mark.parametrize("thing", [Callme(), functools.partial(place_of), print, 3, Context])
def test_what_is_no_function_is_refused(thing: Any) -> None:
    with pytest.raises(DefinitionError, match="is not a Python function"):
        read_signature(thing)
