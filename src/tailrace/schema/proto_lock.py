"""A service's ``.proto`` file as the lock of its field numbers: what was given out once is kept, and never given anew.

Types in Python have no numbers; in order of declaration, a field that is put in the middle would renumber all
after it, and every client that was built before would read nonsense. So the file of the last time decides:
what is in it keeps its number, what is new gets the next one, what is gone is reserved. A change that no
number can mend (a type, a repeated field that is none any more, a method's name) is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailrace.schema.protobuf_types import Shapes

__all__ = ["Comparison", "apply_lock"]

_REPEATED, _MESSAGE, _ENUM = 3, 11, 14
_OWN_NUMBERS = range(19000, 20000)  # protobuf's
_BY_HAND = "if that is meant, take it out of the file by hand"
_NAMES = {
    1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 6: "fixed64", 7: "fixed32", 8: "bool", 9: "string",
    12: "bytes", 13: "uint32", 15: "sfixed32", 16: "sfixed64", 17: "sint32", 18: "sint64",
}  # fmt: skip


@dataclasses.dataclass(slots=True)
class Comparison:
    """What a file and the service's types of today have to do with each other.

    Attributes:
        broken: Changes that would break the wire, a sentence each.
        added: What the file does not have yet.
        removed: What is in the file, and in the types no more.
    """

    broken: list[str] = dataclasses.field(default_factory=list[str])
    added: list[str] = dataclasses.field(default_factory=list[str])
    removed: list[str] = dataclasses.field(default_factory=list[str])

    @property
    def behind(self) -> bool:
        """The file is to be written anew."""
        return bool(self.added or self.removed)


def apply_lock(proto: Any, shapes: Shapes, lock: Any) -> Comparison:
    """Number a draft as the file says.

    Args:
        proto: The draft, a ``FileDescriptorProto`` with its service; changed in place, and not to be used where
            something is broken.
        shapes: What the draft was made of; the numbers of enums are changed there, too.
        lock: The file of the last time.
    """
    return _Locking(proto, shapes, lock).compare()


class _Locking:
    def __init__(self, proto: Any, shapes: Shapes, lock: Any) -> None:
        self._proto, self._shapes, self._lock = proto, shapes, lock
        self._found = Comparison()
        self._new = {message.name: message for message in proto.message_type}
        self._old = {message.name: message for message in lock.message_type}
        self._new_enums = {enum.name: enum for enum in proto.enum_type}
        self._old_enums = {enum.name: enum for enum in lock.enum_type}
        self._pairs: dict[str, str] = {}  # messages and enums: the name in the file -> the name now

    def compare(self) -> Comparison:
        found = self._found
        if self._proto.package != self._lock.package:
            then, now = self._lock.package or "no package", self._proto.package or "no package"
            found.broken.append(f"the package was {then} and is {now}: every path would be another; {_BY_HAND}")
            return found
        self._services()
        for name in (*self._old, *self._old_enums):
            if name in self._new or name in self._new_enums:
                self._pair(name, name)
        done = 0
        while done < len(self._pairs):  # a field may bring together what no method did
            then, now = list(self._pairs.items())[done]
            done += 1
            if then in self._old:
                self._message(self._old[then], self._new[now])
            else:
                self._enum(self._old_enums[then], self._new_enums[now])
        named = set(self._pairs.values())
        found.added += [f"message {name}" for name in self._new if name not in named]
        found.added += [f"enum {name}" for name in self._new_enums if name not in named]
        found.removed += [f"message {name}" for name in self._old if name not in self._pairs]
        found.removed += [f"enum {name}" for name in self._old_enums if name not in self._pairs]
        return found

    # --- what belongs together ---

    def _pair(self, then: str, now: str) -> bool:
        """Take two names for the same message or enum, and so for all that is in it; False where that cannot be."""
        if then in self._pairs:
            return self._pairs[then] == now
        if now in self._pairs.values() or (then in self._old) is not (now in self._new):
            return False
        if then != now and (then in self._new or then in self._new_enums or now in self._old or now in self._old_enums):
            return False  # both are in one of the files: a type was exchanged for another, not renamed
        self._pairs[then] = now
        if then in self._old and now in self._new:
            fields = {field.name: field for field in self._new[now].field}
            for old, new in ((field, fields.get(field.name)) for field in self._old[then].field):
                if new is not None:
                    for one, other in zip(_types(self._old[then], old), _types(self._new[now], new), strict=False):
                        self._pair_types(one, other)
        return True

    def _pair_types(self, then: tuple[int, str], now: tuple[int, str]) -> bool:
        if then[0] != now[0]:
            return False
        if then[0] not in (_MESSAGE, _ENUM):
            return True
        names = [self._local(name) for name in (then[1], now[1])]
        if None in names:
            return then[1] == now[1]
        return self._pair(str(names[0]), str(names[1]))

    def _local(self, full_name: str) -> str | None:
        """A name in the package, without it; of nested messages and other packages None."""
        prefix = f".{self._proto.package}." if self._proto.package else "."
        short = full_name.removeprefix(prefix)
        return short if short != full_name and "." not in short else None

    # --- services ---

    def _services(self) -> None:
        new = {service.name: service for service in self._proto.service}
        old = {service.name: service for service in self._lock.service}
        for name, service in old.items():
            if name not in new:
                self._found.broken.append(f"service {name} is gone, or called otherwise; {_BY_HAND}")
                continue
            methods = {method.name: method for method in new[name].method}
            for method in service.method:
                if method.name not in methods:
                    self._found.broken.append(f"method {name}/{method.name} is gone, or called otherwise; {_BY_HAND}")
                else:
                    self._method(name, method, methods[method.name])
        for name, service in new.items():
            known = {method.name for method in old[name].method} if name in old else set[str]()
            self._found.added += [f"rpc {name}/{method.name}" for method in service.method if method.name not in known]

    def _method(self, service: str, then: Any, now: Any) -> None:
        path = f"{service}/{then.name}"
        for side in ("input_type", "output_type"):
            old, new = getattr(then, side), getattr(now, side)
            if not self._pair_types((_MESSAGE, old), (_MESSAGE, new)):
                what = "request" if side == "input_type" else "response"
                self._found.broken.append(f"the {what} of {path} was {_short(old)} and is {_short(new)}")
        for side, what in (("client_streaming", "requests"), ("server_streaming", "responses")):
            if getattr(then, side) != getattr(now, side):
                was, now_is = ("a stream", "one") if getattr(then, side) else ("one", "a stream")
                self._found.broken.append(f"the {what} of {path} were {was} and are {now_is}")

    # --- fields ---

    def _message(self, then: Any, now: Any) -> None:
        old = {field.name: field for field in then.field}
        new = {field.name: field for field in now.field}
        taken = {field.number: field.name for field in then.field}
        given = self._given(now.name)
        now.reserved_range.extend(then.reserved_range)
        now.reserved_name.extend(then.reserved_name)
        for name, field in new.items():
            if name in old:
                self._field(then, now, old[name], field, given.get(name))
            elif name in then.reserved_name:
                self._found.broken.append(f"{now.name}.{name} was there before, and its name is reserved; {_BY_HAND}")
        for name in old.keys() - new.keys():
            self._found.removed.append(f"{now.name}.{name}")
        for name, field in old.items():
            if name not in new:
                now.reserved_range.add(start=field.number, end=field.number + 1)
                now.reserved_name.append(name)
        numbers = _free(then.field, then.reserved_range, given.values(), exclusive=True)
        for name, field in new.items():
            if name in old:
                continue
            self._found.added.append(f"{now.name}.{name}")
            number = given.get(name)
            if number is None:
                field.number = next(numbers)
            elif number in taken:
                self._found.broken.append(
                    f"{now.name}.{name} has the number {number}, which is that of {taken[number]}"
                )
            elif any(one.start <= number < one.end for one in then.reserved_range):
                self._found.broken.append(f"{now.name}.{name} has the number {number}, which is reserved")

    def _field(self, old_message: Any, new_message: Any, then: Any, now: Any, given: int | None) -> None:
        name = f"{new_message.name}.{now.name}"
        if given is not None and given != then.number:
            self._found.broken.append(f"{name} has the number {then.number} in the file, and {given} in Python")
        now.number = then.number
        was, is_now = _kind(old_message, then), _kind(new_message, now)
        old_types = _types(old_message, then)
        new_types = _types(new_message, now)
        same = len(old_types) == len(new_types) and all(map(self._pair_types, old_types, new_types))
        if was != is_now or not same:
            texts = [_told(kind, types) for kind, types in ((was, old_types), (is_now, new_types))]
            self._found.broken.append(f"{name} was {texts[0]} and is {texts[1]}; give the new one another name")

    def _given(self, message: str) -> dict[str, int]:
        """The numbers that the program gives itself (``FieldNumber``)."""
        shape = self._shapes.messages.get(message)
        fields = [] if shape is None else shape.fields
        return {field.name: field.number for field in fields if field.number is not None}

    # --- enums ---

    def _enum(self, then: Any, now: Any) -> None:
        old = {value.name: value.number for value in then.value}
        enumeration = self._shapes.enums[now.name]
        now.reserved_range.extend(then.reserved_range)
        now.reserved_name.extend(then.reserved_name)
        names = {value.name for value in now.value}
        for name, number in old.items():
            if name not in names:
                self._found.removed.append(f"{now.name}.{name}")
                now.reserved_range.add(start=number, end=number)
                now.reserved_name.append(name)
        fixed = [value.number for value in now.value] if enumeration.numeric else []
        numbers = _free(then.value, then.reserved_range, fixed, exclusive=False)
        changed: dict[int, int] = {}
        for value in now.value:
            number = value.number
            if value.name not in old:
                self._found.added.append(f"{now.name}.{value.name}")
                if number in old.values() and enumeration.numeric:
                    self._found.broken.append(f"{now.name}.{value.name} has the number {number} of another value")
                number = number if enumeration.numeric else next(numbers)
            elif enumeration.numeric and old[value.name] != number:
                was = old[value.name]
                self._found.broken.append(f"{now.name}.{value.name} has the number {was} in the file, and {number} now")
            else:
                number = old[value.name]
            changed[value.number], value.number = number, number
        enumeration.members = {changed[number]: member for number, member in enumeration.members.items()}
        enumeration.values = [(value.name, value.number) for value in now.value]


def _entry(message: Any, field: Any) -> Any:
    """The message of a map's pairs, or None."""
    if field.label != _REPEATED or field.type != _MESSAGE:
        return None
    name = field.type_name.rpartition(".")[2]
    return next((nested for nested in message.nested_type if nested.name == name and nested.options.map_entry), None)


def _types(message: Any, field: Any) -> list[tuple[int, str]]:
    """The types in a field: one, or of a map two."""
    entry = _entry(message, field)
    return [(part.type, part.type_name) for part in (entry.field if entry is not None else [field])]


def _kind(message: Any, field: Any) -> str:
    if _entry(message, field) is not None:
        return "a map"
    return "repeated" if field.label == _REPEATED else "single"


def _told(kind: str, types: list[tuple[int, str]]) -> str:
    names = [_NAMES.get(number) or _short(name) for number, name in types]
    if kind == "a map":
        return f"map<{', '.join(names)}>"
    return f"repeated {names[0]}" if kind == "repeated" else names[0]


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _free(parts: Iterable[Any], reserved: Iterable[Any], given: Iterable[int], *, exclusive: bool) -> Iterator[int]:
    """Numbers that were never given out, beginning above all that were."""
    given = set(given)
    used = [part.number for part in parts] + [one.end - exclusive for one in reserved if one.end < 2**28]
    number = max(used, default=0)
    while True:
        number += 1
        if number not in given and number not in _OWN_NUMBERS:
            yield number
