"""`tailrace gen proto`: the file it writes, the numbers it keeps, the changes it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tailrace.cli import main
from tests.rigs.protoc import ELIZA, compiled

SERVICE = '''
from tailrace import Service
svc = Service("orders", package="orders.v1"{more})

@svc.tool
def place({arguments}) -> str:
    """Place an order."""
    return "x"

@svc.tool
def odd(pair: tuple[int, str]) -> None: ...
'''


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.proto = path / "orders.proto"

    def define(self, arguments: str, more: str = "") -> None:
        (self.path / "orders.py").write_text(SERVICE.format(arguments=arguments, more=more))

    def gen(self, *flags: str) -> Result:
        return CliRunner().invoke(main, ["gen", "proto", str(self.path / "orders.py"), *flags])


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.define("item: str, qty: int = 1")
    return folder


def test_without_a_file_it_writes_to_standard_output(folder: Folder) -> None:
    for flags in ((), ("-o", "-")):
        done = folder.gen(*flags)
        assert done.exit_code == 0
        assert "  // Place an order.\n  rpc Place(PlaceRequest) returns (PlaceResponse);" in done.stdout
        assert "left out: odd() at " in done.stderr
        assert "use a dataclass" in done.stderr
    assert list(folder.path.glob("*.proto")) == []


@pytest.mark.parametrize(("more", "named"), [(', proto="orders.proto"', False), ("", True)])
def test_a_file_keeps_its_numbers(folder: Folder, more: str, named: bool) -> None:
    flags = ("-o", str(folder.proto)) if named else ()
    folder.define("item: str, qty: int = 1", more)
    assert folder.gen(*flags).exit_code == 0
    folder.define("new: bool, qty: int, item: str", more)
    done = folder.gen(*flags)
    assert (done.exit_code, done.stdout) == (0, "")
    text = folder.proto.read_text()
    for line in ("bool new = 3;", "int64 qty = 2;", "string item = 1;"):
        assert line in text
    assert "is as it should be" in folder.gen(*flags).stderr
    assert folder.proto.read_text() == text
    assert [file.name for file in folder.path.iterdir() if "proto" in file.name] == ["orders.proto"]


def test_a_change_that_breaks_the_wire_is_refused_and_the_file_stays(folder: Folder) -> None:
    folder.gen("-o", str(folder.proto))
    before = folder.proto.read_text()
    folder.define("item: int, qty: list[int]")
    done = folder.gen("-o", str(folder.proto))
    assert done.exit_code == 1
    assert "PlaceRequest.item was string and is int64" in done.stderr
    assert "PlaceRequest.qty was int64 and is repeated int64" in done.stderr
    assert folder.proto.read_text() == before


def test_check_writes_nothing(folder: Folder) -> None:
    flags = ("-o", str(folder.proto), "--check")
    done = folder.gen(*flags)
    assert done.exit_code == 1
    assert "is not there" in done.stderr
    assert not folder.proto.exists()
    folder.gen(*flags[:2])
    assert folder.gen(*flags).exit_code == 0
    folder.define("item: str")
    done = folder.gen(*flags)
    assert done.exit_code == 1
    assert "is not as" in done.stderr
    assert "qty = 2" in folder.proto.read_text()
    assert folder.gen("--check").exit_code == 2


def test_what_cannot_be_written_is_told(folder: Folder) -> None:
    folder.proto.write_text("hello")
    done = folder.gen("-o", str(folder.proto))
    assert done.exit_code == 1
    assert "orders.proto cannot be read" in done.stderr
    (folder.path / "orders.py").write_text("from tailrace import Service\nsvc = Service('orders')\n")
    done = folder.gen()
    assert done.exit_code == 1
    assert "nothing of Orders is defined in Python" in done.stderr


# --- stubs --------------------------------------------------------------------------------------


PROTO3 = "syntax = 'proto3';"


def stubs(*words: str) -> Result:
    return CliRunner().invoke(main, ["gen", "stubs", *words])


def test_stubs_of_a_target_go_to_standard_output_or_a_file(folder: Folder) -> None:
    target = str(folder.path / "orders.py")
    done = stubs(target)
    assert done.exit_code == 0
    assert "class OrdersClient:" in done.stdout
    assert "qty: Annotated[int | None, FieldNumber(2)] = None" in done.stdout
    assert stubs(target, "-o", str(folder.path / "stubs.py")).exit_code == 0
    assert (folder.path / "stubs.py").read_text() == done.stdout


def test_stubs_of_a_proto_file_and_of_a_descriptor_set_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "given.proto").write_text(ELIZA)
    (tmp_path / "set").write_bytes(compiled(ELIZA).SerializeToString())
    of_file, of_set = stubs(str(tmp_path / "given.proto")), stubs(str(tmp_path / "set"))
    assert of_file.exit_code == of_set.exit_code == 0
    assert of_file.stdout == of_set.stdout
    assert "message: given_pb2.SayRequest" in of_file.stdout


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("x.proto", "hello", "x.proto:1: "),
        ("x.proto", PROTO3, "there is no service in"),
        (
            "x.proto",
            'syntax = "proto3"; import "o.proto"; service S { rpc A(o.M) returns (o.M); }',
            "o.M is in another file",
        ),
        ("set", "hello", "no .proto file and no descriptor set"),
    ],
)
def test_stubs_of_what_has_none_are_refused(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    done = stubs(str(tmp_path / name))
    assert done.exit_code == 1
    assert complaint in done.stderr
    assert stubs(str(tmp_path / "missing.proto")).exit_code == 2
