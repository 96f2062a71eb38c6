"""The faults of what is offered beside tools, and of who sees it: rows of `mutants.MUTANTS`."""

from __future__ import annotations

from tests.mutants.planting import Mutant

__all__ = ["FEATURE_MUTANTS"]

UNIT = "tests/protocols/mcp"

FEATURE_MUTANTS = [
    Mutant(
        "what a filter hides is not listed, and can be called all the same",
        "protocols/mcp/requests.py",
        [
            (
                "        return self.endpoint.service.offered(Viewer(principal, session)).tools.get(name)\n",
                "        return self._tools.get(name)\n",
            )
        ],
        [f"{UNIT}/test_viewing.py::test_what_a_filter_hides_is_neither_listed_nor_found"],
        "KeyError|assert",
    ),
    Mutant(
        "every session is told of a resource that one has subscribed to",
        "protocols/mcp/notifications.py",
        [(" in endpoint.subscriptions.of(params) if about_one else list(", " in list(")],
        [f"{UNIT}/test_resources.py::test_those_who_subscribed_are_told_once_and_nobody_else"],
        "assert",
    ),
    Mutant(
        "a session that ends leaves its subscriptions behind",
        "protocols/mcp/sessions.py",
        [("        endpoint.subscriptions.left(session)\n", "")],
        [f"{UNIT}/test_resources.py::test_a_session_that_ends_leaves_no_subscription_behind"],
        "assert",
    ),
    Mutant(
        "a read that a crash interrupted runs again after every crash",
        "protocols/mcp/recovery.py",
        [("        if data.reran or found is None or not", "        if found is None or not")],
        [f"{UNIT}/test_resources.py::test_a_read_that_crashed_twice_is_answered_with_an_error"],
        "assert",
    ),
    Mutant(
        "a path in a URI leads anywhere",
        "wire/uri_templates.py",
        [("        if not self._any_path and (", "        if False and (")],
        [f"{UNIT}/test_resources.py::test_a_path_that_leads_out_is_not_found[../x]"],
        "assert",
    ),
    Mutant(
        "what is provided for a call is not ended when the call fails",
        "protocols/mcp/invoking.py",
        [
            (
                "    async with AsyncExitStack() as stack:\n",
                "    stack = AsyncExitStack()\n    if True:\n",
            )
        ],
        ["tests/service/test_providers.py::test_each_call_gets_its_own_once_and_it_is_ended_after_the_call"],
        "assert",
    ),
]
