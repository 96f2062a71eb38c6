"""The faults of a store that several processes share: rows of `mutants.MUTANTS`."""

from __future__ import annotations

from tests.mutants.planting import Mutant

CLUSTER = "tests/server/test_cluster.py"
SCHEDULES = "tests/schedules/test_members.py::test_what_meets_in_any_order"
LEDGER = "tests/core/test_shared_ledger.py"
MEMBERS = "tests/stores/test_valkey_membership.py"

SHARED_MUTANTS = [
    Mutant(
        "an owner that may have lost its lease answers for its sessions",
        "server/router.py",
        [("        if not partition.store.is_held:  #", "        if False:  #")],
        [
            "tests/server/test_cluster.py::test_an_owner_that_is_not_sure_of_its_lease_answers_for_no_session_until_it_is"
        ],
        "Timeout|assert",
    ),
    Mutant(
        "what its owner declines is sent to it again and again",
        "server/router.py",
        [("owner is not None and (owner != declined or members.seen > began)", "owner is not None")],
        [f"{CLUSTER}::test_what_an_owner_declines_is_sent_to_it_again_only_after_a_look"],
        "assert",
    ),
    Mutant(
        "what a partition has counted goes with it",
        "server/server.py",
        [("            self.past.add(partition)\n", "")],
        [f"{CLUSTER}::test_what_a_partition_has_counted_stays_when_it_is_gone"],
        "assert",
    ),
    Mutant(
        "a client is told where the store is",
        "transports/relay.py",
        [
            (
                '"the worker that has this session cannot be reached; try again later"',
                'f"the worker that has this session cannot be reached: {error}"',
            )
        ],
        ["tests/server/test_leaks.py::test_a_client_whose_worker_cannot_be_reached_learns_nothing_of_the_way"],
        "assert",
    ),
    Mutant(
        "a relayed stream begins at its client before the first of its body is there",
        "transports/relay_asked.py",
        [("        elif piece.joined:\n", "        elif False:\n")],
        ["tests/transports/test_relay.py::test_a_stream_whose_first_bytes_are_lost_has_not_begun[lost]"],
        "assert",
    ),
    Mutant(
        "a partition that was lost while it was restored is served",
        "server/ownership.py",
        [("            self._check(partition)\n", "")],
        [f"{SCHEDULES}[killed snatched]"],
        "what it owns, and what it has|BugFound",
    ),
    Mutant(
        "a key is claimed although another process may have it",
        "core/shared_ledger.py",
        [("encode_head(entry, detail)\n", "encode_head(entry, detail)\n        claim = False\n")],
        [f"{LEDGER}::test_who_comes_second_does_not_begin_and_is_given_the_answer"],
        "assert",
    ),
    Mutant(
        "whoever takes a partition over does not know what it had begun",
        "core/shared_ledger.py",
        [("            PutEntry(BEGUN_KEYS, entry.name, head, NEVER),\n", "")],
        [f"{LEDGER}::test_whoever_takes_a_partition_over_settles_what_it_had_begun"],
        "ValueError|assert",
    ),
    Mutant(
        "a key that is held is claimed again",
        "stores/claims.py",
        [("            return not is_held(claim)\n", "            return True\n")],
        ["tests/stores/test_store.py::test_who_holds_a_key_and_what_is_free_outlives_the_store_that_wrote_it[sqlite]"],
        "EntryTaken",
    ),
    Mutant(
        "who asks again after a cut is told that all its claims stand",
        "stores/valkey_scripts.py",
        [("return {'ok', last, string.match(batch, ':(.*)$') or ''} end", "return {'ok', last, ''} end")],
        [f"{MEMBERS}::test_through_cuts_everywhere_a_key_is_claimed_once_and_the_one_who_has_it_knows"],
        "assert",
    ),
    Mutant(
        "a claim whose answer was lost is held for ever",
        "stores/valkey_writer.py",
        [("            self._doubtful = [write for write in writes if claims(write[1])]\n", "")],
        [f"{MEMBERS}::test_a_claim_that_was_done_though_its_answer_was_lost_is_taken_back_before_anything_else[once]"],
        "assert",
    ),
    Mutant(
        "an owner that slept writes what it has left",
        "stores/valkey_scripts.py",
        [("  if held or call('GET', P .. 'fence') ~=", "  if false and call('GET', P .. 'fence') ~=")],
        ["tests/stores/test_valkey.py::test_who_was_away_while_another_took_over_can_write_nothing"],
        "DID NOT RAISE",
    ),
    Mutant(
        "a partition that holds tasks only counts as empty",
        "stores/valkey_membership.py",
        [("    if call('ZCOUNT', P .. 'x:' .. kind, '(' .. ARGV[1], '+inf') > 0 then return false end\n", "")],
        [f"{MEMBERS}::test_an_orphan_that_holds_something_stays[a task]"],
        "assert",
    ),
]
