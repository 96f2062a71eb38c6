"""A TARGET leads to its service, or to a message that names what is wrong in the user's own terms."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import pytest

from tailrace.cli.target import BrokenTarget, default_store, load, looks_like_target

ONE = 'from tailrace import Service\n\nsvc = Service("one")\n'
TWO = ONE + 'other = Service("two")\n'


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def usage_error(target: str) -> str:
    with pytest.raises(click.UsageError) as caught:
        load(target)
    assert caught.value.exit_code == 2
    return caught.value.format_message()


def broken(target: str) -> str:
    with pytest.raises(BrokenTarget) as caught:
        load(target)
    assert caught.value.exit_code == 1
    return caught.value.format_message()


# --- found ----------------------------------------------------------------------------------------


def test_every_spelling_finds_the_same_service_and_the_same_store(folder: Path) -> None:
    write(folder / "pkg" / "__init__.py", "")
    write(folder / "pkg" / "tools.py", ONE)
    spellings = ["pkg/tools.py", "pkg/tools.py:svc", "pkg.tools", "pkg.tools:svc", str(folder / "pkg/../pkg/tools.py")]
    found = [load(spelling) for spelling in spellings]
    assert {id(target.service) for target in found} == {id(found[0].service)}
    assert {target.resolved for target in found} == {f"{(folder / 'pkg' / 'tools.py').resolve()}:svc"}
    assert len({default_store(target) for target in found}) == 1


def test_each_service_has_a_store_of_its_own(folder: Path) -> None:
    write(folder / "tools.py", TWO)
    one, two = default_store(load("tools.py:svc")), default_store(load("tools.py:other"))
    assert one != two
    assert one.parent.name == "tailrace"
    assert one.name.startswith("tools-")
    assert one.suffix == ".sqlite"
    assert len(one.stem) == len("tools-") + 8


def test_a_service_inside_an_object_is_found(folder: Path) -> None:
    write(folder / "tools.py", ONE + "class Box:\n    inner = svc\n")
    assert load("tools.py:Box.inner").service.name == "one"


def test_one_service_under_two_names_is_one(folder: Path) -> None:
    write(folder / "tools.py", ONE + "alias = svc\n")
    assert load("tools.py").name == "svc"


def test_a_private_service_does_not_make_it_two(folder: Path) -> None:
    write(folder / "tools.py", ONE + '_for_tests = Service("hidden")\n')
    assert load("tools.py").name == "svc"


def test_a_file_imports_its_neighbours(folder: Path) -> None:
    write(folder / "sub" / "neighbour.py", "NAME = 'from beside'\n")
    write(folder / "sub" / "tools.py", "from neighbour import NAME\n" + ONE.replace('"one"', "NAME"))
    assert load("sub/tools.py").service.name == "from beside"


def test_a_file_in_a_package_may_import_relatively(folder: Path) -> None:
    write(folder / "deep" / "__init__.py", "")
    write(folder / "deep" / "names.py", "NAME = 'relative'\n")
    write(folder / "deep" / "tools.py", "from .names import NAME\n" + ONE.replace('"one"', "NAME"))
    assert load("deep/tools.py").service.name == "relative"


def test_the_main_guard_of_a_file_does_not_run(folder: Path) -> None:
    write(folder / "tools.py", ONE + "if __name__ == '__main__':\n    raise SystemExit('ran')\n")
    assert load("tools.py").service.name == "one"


@pytest.mark.parametrize("name", ["json.py", "my-tools.py", "click.py"])
def test_a_file_may_have_any_name_and_replaces_no_module(folder: Path, name: str) -> None:
    write(folder / name, ONE)
    before = sys.modules.get(name[:-3])
    assert load(name).service.name == "one"
    assert sys.modules.get(name[:-3]) is before or name == "my-tools.py"


# --- not found ------------------------------------------------------------------------------------


def test_a_missing_file_offers_the_near_ones(folder: Path) -> None:
    write(folder / "workspace.py", ONE)
    said = usage_error("worspace.py")
    assert "there is no file worspace.py" in said
    assert "workspace.py" in said.split("Found instead:")[1]


def test_a_missing_file_with_no_near_one_offers_files_with_services(folder: Path) -> None:
    write(folder / "orders.py", ONE)
    write(folder / "unrelated.py", "x = 1\n")
    said = usage_error("zzz.py")
    assert "orders.py" in said
    assert "unrelated.py" not in said


def test_a_missing_folder_is_named(folder: Path) -> None:
    assert "there is no folder nowhere" in usage_error("nowhere/tools.py")


def test_a_folder_offers_what_is_in_it(folder: Path) -> None:
    write(folder / "things" / "orders.py", ONE)
    said = usage_error("things")
    assert "is a folder" in said
    assert os.path.join("things", "orders.py") in said


def test_a_module_that_is_a_file_here_is_offered_as_one(folder: Path) -> None:
    said = usage_error("no_such_thing.inner")
    assert "there is no module 'no_such_thing.inner'" in said
    write(folder / "things" / "orders.py", ONE)
    assert "there is no module 'nothings.orders'" in usage_error("nothings.orders")


def test_neither_file_nor_module_is_said(folder: Path) -> None:
    assert "neither a file nor a module" in usage_error("what is this?")


def test_a_file_without_a_service_says_what_it_has_and_how_to_start_one(folder: Path) -> None:
    write(folder / "tools.py", "import pathlib\n\nclass App: ...\napp = App()\ndef main(): ...\n")
    said = usage_error("tools.py")
    assert "there is no Service in tools.py" in said
    assert "app (of type App)" in said
    assert "from tailrace import Service" in said


def test_a_file_without_a_service_offers_the_files_beside_it(folder: Path) -> None:
    write(folder / "tools.py", "x = 1\n")
    write(folder / "orders.py", ONE)
    assert "orders.py" in usage_error("tools.py").split("Found instead:")[1]


def test_several_services_are_listed(folder: Path) -> None:
    write(folder / "tools.py", TWO)
    said = usage_error("tools.py")
    assert "there are 2 services" in said
    assert "tools.py:svc   one" in said
    assert "tools.py:other   two" in said


def test_a_wrong_name_offers_the_right_ones(folder: Path) -> None:
    write(folder / "tools.py", TWO)
    said = usage_error("tools.py:service")
    assert "there is no 'service'" in said
    assert "tools.py:svc" in said


def test_a_name_that_is_no_service_says_what_it_is(folder: Path) -> None:
    write(folder / "tools.py", ONE + "def make(): ...\nnumber = 3\n")
    assert "tools.py:make is a function, not a Service" in usage_error("tools.py:make")
    assert "tools.py:number is of type int" in usage_error("tools.py:number")
    assert "tools.py:Service is the class Service" in usage_error("tools.py:Service")


# --- broken ---------------------------------------------------------------------------------------


def test_a_syntax_error_shows_the_line(folder: Path) -> None:
    write(folder / "tools.py", "def broken(:\n")
    said = broken("tools.py")
    assert "does not compile" in said
    assert "def broken(:" in said
    assert "^" in said
    assert "importlib" not in said


def test_an_error_at_import_shows_only_the_users_lines(folder: Path) -> None:
    write(folder / "helper.py", "def f():\n    return 1 / 0\n")
    write(folder / "tools.py", "import helper\nhelper.f()\n")
    said = broken("tools.py")
    assert "failed while it was imported" in said
    assert "ZeroDivisionError" in said
    assert "helper.f()" in said
    assert "return 1 / 0" in said
    assert said.count("File ") == 2
    assert "tools.py" not in sys.modules


def test_an_error_in_an_imported_neighbour_hides_the_import_system(folder: Path) -> None:
    write(folder / "helper.py", "1 / 0\n")
    write(folder / "tools.py", "import helper\n")
    said = broken("tools.py")
    assert said.count("File ") == 2
    assert "frozen" not in said


@pytest.mark.parametrize("target", ["tools.py", "tools"])
def test_a_missing_import_of_the_user_is_the_users(folder: Path, target: str) -> None:
    write(folder / "tools.py", "import not_installed_anywhere\n")
    said = broken(target)
    assert "No module named 'not_installed_anywhere'" in said
    assert "import not_installed_anywhere" in said


def test_a_package_that_fails_is_the_users(folder: Path) -> None:
    write(folder / "bad" / "__init__.py", "1 / 0\n")
    write(folder / "bad" / "tools.py", ONE)
    assert "ZeroDivisionError" in broken("bad.tools")


def test_exit_at_import_is_said(folder: Path) -> None:
    write(folder / "tools.py", "import sys\nsys.exit(0)\n")
    assert "ended the program" in broken("tools.py")


def test_a_wrong_definition_is_one_line(folder: Path) -> None:
    write(folder / "tools.py", ONE + "@svc.tool\ndef f(*args): ...\n")
    said = broken("tools.py")
    assert "Traceback" not in said
    assert "tools.py" in said


def test_deep_recursion_at_import_is_shown(folder: Path) -> None:
    write(folder / "tools.py", "def f(): f()\nf()\n")
    assert "RecursionError" in broken("tools.py")


@pytest.mark.parametrize(
    ("word", "is_target"),
    [("a.py", True), ("a.py:svc", True), ("pkg.mod:svc", True), ("npx", False), ("C:\\tools\\server.exe", False)],
)
def test_a_target_is_told_from_a_program(word: str, is_target: bool) -> None:
    assert looks_like_target(word) is is_target
