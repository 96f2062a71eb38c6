"""`make mutation` counts what it should: on a tiny module, with a fault that is noticed and one that is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation.__main__ import report
from tests.mutation.measure import Module, MutationFailed, measure, score

PROJECT = {
    "pyproject.toml": '[tool.mutmut]\nsource_paths = ["tiny"]\npytest_add_cli_args_test_selection = ["tests"]\n',
    "tiny/__init__.py": "",
    "tiny/sums.py": "def both(a, b):\n    return a + b\n\n\ndef long(text):\n    return len(text) > 3\n",
    "tests/test_sums.py": (
        "from tiny.sums import both, long\n\n\ndef test_both():\n    assert both(1, 2) == 3\n\n\n"
        'def test_long():\n    assert long("a longer one")\n    assert not long("a")\n'
    ),
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def lay_out(folder: Path, **changed: str) -> Path:
    for path, text in (PROJECT | changed).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_a_fault_that_a_test_notices_is_killed_and_the_other_is_shown_with_its_change(tmp_path: Path) -> None:
    (module,) = measure(lay_out(tmp_path), timeout=300)
    assert module.path == "tiny/sums.py"
    assert module.survivors == [
        ("long", "- return len(text) > 3\n+ return len(text) >= 3"),
        ("long", "- return len(text) > 3\n+ return len(text) > 4"),
    ]
    assert module.fates == {"killed": 1, "survived": 2}, "the fault in `both` is noticed"


def test_tests_that_fail_without_a_fault_give_no_score(tmp_path: Path) -> None:
    failing = "from tiny.sums import both\n\n\ndef test_both():\n    assert both(1, 2) == 4\n"
    with pytest.raises(MutationFailed, match="assert"):
        measure(lay_out(tmp_path, **{"tests/test_sums.py": failing}), timeout=300)


def test_what_no_test_reaches_counts_as_survived() -> None:
    module = Module("a.py")
    module.fates.update({"killed": 5, "timed out": 1, "survived": 1, "no tests": 1})
    assert score([module]) == 75.0
    assert report([module]).splitlines()[-1].split() == ["all", "of", "them", "8", "5", "1", "2", "75.0", "%"]
