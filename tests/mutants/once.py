"""The faults of run-once and of its tokens: rows of `mutants.MUTANTS`."""

from __future__ import annotations

from tests.mutants.planting import Mutant

LEDGER = "core/ledger.py"
ONCE = "protocols/mcp/once.py"
RUN = "protocols/mcp/once_run.py"
UNIT = "tests/protocols/mcp/test_once.py"
RACES = "tests/schedules/test_once.py"

ONCE_MUTANTS = [
    Mutant(
        "the ledger replays whatever was called under the key",
        LEDGER,
        [("        if entry.fingerprint != fingerprint:\n", "        if False:\n")],
        [
            f"{UNIT}::test_another_call_under_the_same_key_is_refused[True-refund-arguments4]",
            f"{UNIT}::test_two_other_calls_that_race_for_one_key_are_not_one",
        ],
        "KeyError|assert",
    ),
    Mutant(
        "an entry is committed after its work has begun",
        LEDGER,
        [
            (
                "        self._write(self._begun(entry, detail, claim=True), committed)\n        return entry\n",
                "        entry.state = EntryState.BEGUN\n        begin(None)\n"
                "        self._write(self._begun(entry, detail, claim=True), lambda error: None)\n"
                "        return entry\n",
            )
        ],
        [f"{RACES}::test_ends_meet[duplicate-leave-running]"],
        "the handler starts before its entry is committed",
    ),
    Mutant(
        "an answer is given before it is committed",
        LEDGER,
        [
            (
                "        self._write([*self._answered(entry, answer), *published], committed)\n",
                "        self._tell(entry, answer=answer)\n"
                "        self._write([*self._answered(entry, answer), *published], committed)\n",
            )
        ],
        [f"{RACES}::test_ends_meet[duplicate-end-running]"],
        "an answer is sent uncommitted",
    ),
    Mutant(
        "one who attaches while the answer is being committed never gets it",
        LEDGER,
        [
            (
                "        self._write([*self._answered(entry, answer), *published], committed)\n",
                "        attached, entry.outcome = entry.outcome, Outcome()\n"
                "        self._write([*self._answered(entry, answer), *published], committed)\n"
                "        if attached is not None:\n"
                "            attached.answer = answer\n            attached.waiters.wake()\n",
            ),
            (
                "            self._tell(entry, answer=answer)\n            self._end(entry)\n",
                "            self._end(entry)\n",
            ),
        ],
        [f"{RACES}::test_ends_meet[duplicate-end-running]"],
        "a call did not end|Timeout",
    ),
    Mutant(
        "two duplicates both find the key free",
        ONCE,
        [
            (
                "            entry = self._begin(call)\n",
                "            await asyncio.sleep(0)\n            entry = self._begin(call)\n",
            )
        ],
        [
            f"{UNIT}::test_requests_with_one_key_are_one_run_and_each_gets_its_own_answer",
            f"{RACES}::test_three_meet[Asker-duplicate-duplicate-end]",
        ],
        "assert|the handler runs twice",
    ),
    Mutant(
        "a disconnect cancels the run",
        RUN,
        [("        if isinstance(reason, ClientGone):\n", "        if False:\n")],
        [f"{UNIT}::test_over_modern_http_a_disconnect_ends_nothing_and_the_handler_is_told"],
        "assert",
    ),
    Mutant(
        "one who cancels ends the run that another waits for",
        RUN,
        [("        elif not self.listeners and not self._kept", "        elif not self._kept")],
        [f"{UNIT}::test_one_who_cancels_takes_nothing_from_another_who_waits"],
        "assert",
    ),
    Mutant(
        "a full ledger forgets an old key",
        LEDGER,
        [
            (
                '                raise LimitError("ledger", text)\n',
                "                self._forget(next(iter(self._ended.values())))\n",
            )
        ],
        [f"{UNIT}::test_a_full_ledger_refuses_new_keys_in_every_way_in"],
        "assert",
    ),
    Mutant(
        "a principal attaches to another's key",
        "core/ledger_entry.py",
        [("    owner = principal.encode()\n", '    owner = b""\n')],
        [f"{UNIT}::test_a_key_is_its_principals"],
        "assert|KeyError",
    ),
    Mutant(
        "a run that was killed is begun again",
        ONCE,
        [('        if tool is None or tool.on_crash != "rerun" or detail.reran:\n', "        if tool is None:\n")],
        [
            f"{UNIT}::test_a_run_that_was_killed_is_unknown_and_never_begun_again",
            f"{UNIT}::test_a_run_that_is_killed_twice_is_unknown",
        ],
        "assert|Timeout",
    ),
    Mutant(
        "a shutdown is remembered as an outcome",
        RUN,
        [("        if self._once.endpoint.ending and not isinstance(error, Abandoned):\n", "        if False:\n")],
        [f"{UNIT}::test_what_may_run_again_is_left_to_the_next_life_by_a_shutdown"],
        "assert|Timeout",
    ),
    Mutant(
        "a call whose arguments do not fit takes its key",
        ONCE,
        [
            (
                "            call.target.arguments.decode("
                "call.arguments if isinstance(call.arguments, Raw) else None)\n",
                "",
            )
        ],
        [f"{UNIT}::test_arguments_that_never_reach_the_tool_leave_the_key_free"],
        "KeyError|assert",
    ),
    Mutant(
        "any token will do",
        "transports/bearer.py",
        [("self._judge.access(token) or _INVALID", 'self._judge.access(token) or Access("somebody")')],
        [
            "tests/server/test_auth.py::test_without_a_token_nothing_is_served[POST-/mcp]",
            "tests/transports/test_bearer.py::test_whoever_shows_none_or_another_is_refused_and_told_how_to_ask"
            '[values5-Bearer error="invalid_token"]',
        ],
        "assert",
    ),
    Mutant(
        "a token for another server will do",
        "transports/authorization/jwts.py",
        [('options={"require": ["exp", "iss", "aud"]},', 'options={"verify_aud": False},')],
        ["tests/transports/authorization/test_jwts.py::test_a_token_for_another_server_is_none_here"],
        "DID NOT RAISE",
    ),
    Mutant(
        "a tool needs no scopes",
        "protocols/mcp/requests.py",
        [("if target.scopes and origin is not None and not origin.covers(target.scopes):", "if False:")],
        ["tests/server/test_scopes.py::test_a_modern_call_that_needs_more_is_refused_and_says_all_that_it_needs"],
        "assert",
    ),
    Mutant(
        "an answer of any issuer is believed",
        "clients/mcp/oauth/authorization.py",
        [("if issuers != [server.issuer] and (", "if False and (")],
        ["tests/clients/mcp/oauth/test_flow.py::test_an_issuer_that_differs_by_a_slash_is_another"],
        "DID NOT RAISE",
    ),
    Mutant(
        "a client that has left is served once its token is judged",
        "server/requests.py",
        [("        if exchange.gone:  # while the token was verified\n", "        if False:\n")],
        ["tests/server/test_auth.py::test_a_client_that_leaves_while_its_token_is_judged_starts_nothing"],
        "assert",
    ),
    Mutant(
        "a client asks again where nobody said that it is safe",
        "clients/mcp/again.py",
        [("        if not safe:\n            raise lost\n", "")],
        ["tests/clients/mcp/test_again.py::test_a_tool_that_does_not_say_it_runs_once_is_never_asked_for_again"],
        "assert|Failed",
    ),
]
