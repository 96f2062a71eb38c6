"""The faults of calls that ask their client on the way: rows of `mutants.MUTANTS`."""

from __future__ import annotations

from tests.mutants.planting import Mutant

LEGS = "protocols/mcp/legs.py"
LEGS_UNIT = "tests/protocols/mcp/test_mrtr.py"
ONCE_UNIT = "tests/protocols/mcp/test_mrtr_once.py"

ASKING_MUTANTS = [
    Mutant(
        "a question is remembered as what came of its key, which is charged before its client has answered",
        "protocols/mcp/once.py",
        [
            (
                "        elif payload[:1] in (ASKED, PAUSED):\n"
                "            self.ledger.pause(run.entry, payload, self.endpoint.settings.state_time)\n",
                "",
            )
        ],
        [f"{ONCE_UNIT}::test_a_key_is_charged_only_when_the_handler_ran_to_a_result"],
        "KeyError|assert",
    ),
    Mutant(
        "between two legs nothing holds the key",
        "core/ledger.py",
        [
            (
                "        self._reopen(entry)\n\n        def committed",
                "        self._leave(entry)\n\n        def committed",
            )
        ],
        [f"{ONCE_UNIT}::test_between_two_legs_the_key_is_taken_for_its_call_and_no_other"],
        "KeyError",
    ),
    Mutant(
        "an answer is given to another question",
        LEGS,
        [("        if known is not None and known.question == digest:\n", "        if known is not None:\n")],
        [f"{LEGS_UNIT}::test_an_answer_to_another_question_is_not_taken_for_one_to_this"],
        "KeyError",
    ),
    Mutant(
        "a state goes with whichever request brings it",
        LEGS,
        [("        if state.binding != self.binding:\n", "        if False:\n")],
        [f"{LEGS_UNIT}::test_a_state_is_its_principals_its_requests_and_expires"],
        "assert",
    ),
    Mutant(
        "a state never expires",
        LEGS,
        [("        if state.expires <= self.endpoint.wall():\n", "        if False:\n")],
        [
            f"{LEGS_UNIT}::test_a_state_is_its_principals_its_requests_and_expires",
            f"{LEGS_UNIT}::test_all_legs_of_a_call_together_have_a_limit_in_time_and_number",
        ],
        "assert|KeyError",
    ),
    Mutant(
        "a stamp is good for everybody",
        "protocols/mcp/framing.py",
        [
            (
                '    who = principal.encode()\n    return hmac.digest(secret, b"',
                '    who = b""\n    return hmac.digest(secret, b"',
            )
        ],
        [f"{LEGS_UNIT}::test_a_state_is_its_principals_its_requests_and_expires"],
        "assert",
    ),
    Mutant(
        "a step begins before it is recorded",
        "core/steps.py",
        [
            (
                "error = await self._commit(PutEntry(_KIND, key, _BEGUN, expires, claim=True), *ours)\n",
                "error = self._write([PutEntry(_KIND, key, _BEGUN, expires), *ours], None) and None\n",
            )
        ],
        ["tests/core/test_steps.py::test_a_step_that_cannot_be_recorded_is_not_begun"],
        "DID NOT RAISE|assert",
    ),
    Mutant(
        "a step of a run that has gone is begun again beside itself",
        "core/steps.py",
        [("            step = self._running.get(key)\n            if step is None:\n", "            if True:\n")],
        [
            "tests/core/test_steps.py::test_two_runs_at_once_share_one_and_its_caller_may_leave",
            "tests/schedules/test_asking.py::test_legs_meet[leg-leg]",
        ],
        "assert|unknown",
    ),
]
