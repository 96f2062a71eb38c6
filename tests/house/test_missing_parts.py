"""A test that could not run must not look as if it had: skips for missing parts fail in CI."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

FOUR_WAYS_TO_MISS_A_PART = """
    import pytest

    def test_by_fixture(needs):
        needs("node", "npm is not here")

    def test_by_skip():
        pytest.skip("needs node: npm is not here")

    @pytest.mark.skipif(True, reason="needs node")
    def test_by_mark():
        pass

    def test_another_reason():
        pytest.skip("only on Windows")
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("CI", raising=False)
    pytester.makeconftest(CONFTEST.read_text())
    return pytester


def run(project: pytest.Pytester) -> pytest.RunResult:
    foreign = ("randomly", "cacheprovider", "xdist", "asyncio", "cov", "anyio")
    return project.runpytest(*(argument for name in foreign for argument in ("-p", f"no:{name}")))


def test_a_missing_part_skips_with_its_reason(project: pytest.Pytester) -> None:
    project.makepyfile(FOUR_WAYS_TO_MISS_A_PART)
    result = run(project)
    result.assert_outcomes(skipped=4)


def test_in_ci_a_missing_part_fails_and_other_skips_do_not(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    project.makepyfile(FOUR_WAYS_TO_MISS_A_PART)
    result = run(project)
    result.assert_outcomes(skipped=1, failed=2, errors=1)  # a mark skips before the test: an error
    result.stdout.fnmatch_lines(["*needs node: npm is not here (a skip for a missing part is a failure*"])


def test_in_ci_a_module_that_skips_for_a_missing_part_fails(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    project.makepyfile("import pytest\npytest.skip('needs redis: no server', allow_module_level=True)")
    result = run(project)
    result.assert_outcomes(errors=1)
    assert result.ret != 0
