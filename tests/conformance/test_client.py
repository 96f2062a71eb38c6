"""The official MCP conformance suite against our client: what fails is what is written down, with its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.conformance.suite import EXPECTED, FOLDER, SETS, compare, read_expected, run_client_suite
from tests.rigs.npm import npm_problem

# What has to pass, whatever the file of expected failures says.
AUTHORIZED = [
    *("auth/metadata-default", "auth/metadata-var1", "auth/metadata-var2", "auth/metadata-var3", "auth/basic-cimd"),
    *("auth/scope-from-www-authenticate", "auth/scope-from-scopes-supported", "auth/scope-omitted-when-undefined"),
    *("auth/scope-step-up", "auth/scope-retry-limit", "auth/token-endpoint-auth-basic"),
    *("auth/token-endpoint-auth-post", "auth/token-endpoint-auth-none", "auth/pre-registration"),
    *("auth/client-credentials-basic", "auth/client-credentials-jwt"),
]
PASSED = {
    "2025-11-25": [
        *("initialize", "tools_call", "elicitation-sep1034-client-defaults", "sse-retry"),
        *AUTHORIZED,
    ],
    "2026-07-28": [
        *("tools_call", "request-metadata", "http-standard-headers", "http-custom-headers"),
        *("http-invalid-tool-headers", "json-schema-ref-no-deref"),
        *AUTHORIZED,
        *("auth/resource-mismatch", "auth/offline-access-scope", "auth/offline-access-not-supported"),
        *("auth/authorization-server-migration", "auth/iss-supported", "auth/iss-not-advertised"),
        *("auth/iss-supported-missing", "auth/iss-wrong-issuer", "auth/iss-unexpected", "auth/iss-normalized"),
        "auth/metadata-issuer-mismatch",
    ],
}


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("requirements", SETS)
def test_only_what_is_written_down_fails(
    requirements: str, needs: Callable[[str, str], NoReturn], tmp_path: Path
) -> None:
    problem = npm_problem(FOLDER)
    if problem:
        needs("npm", problem)
    results = run_client_suite(requirements, tmp_path)
    assert compare(results, read_expected(EXPECTED.read_text(), "client")) == ([], []), results.table()
    assert [name for name in PASSED[requirements] if not results.passed(name)] == []


def test_each_side_has_its_own_expected_failures() -> None:
    text = "server:\n  - ping  # it is not there\nclient:\n  - auth/dpop  # it is not there either\n"
    assert list(read_expected(text)) == ["ping"]
    assert list(read_expected(text, "client")) == ["auth/dpop"]
