"""The faults that must never come back, one row each: where they would be written, and the test that catches them."""

from __future__ import annotations

from tests.mutants.asking import ASKING_MUTANTS
from tests.mutants.features import FEATURE_MUTANTS
from tests.mutants.once import ONCE_MUTANTS
from tests.mutants.planting import Mutant
from tests.mutants.rpc import RPC_MUTANTS
from tests.mutants.rpc_schema import RPC_SCHEMA_MUTANTS
from tests.mutants.rpc_server import RPC_SERVER_MUTANTS
from tests.mutants.shared import SHARED_MUTANTS

CORE = "tests/schedules/test_core.py::test_two_ends_meet"
OVER_SSE = "tests/schedules/test_http_sse.py::test_two_ends_meet"
STREAMABLE = "tests/schedules/test_streamable.py::test_two_ends_meet"
MODERN = "tests/schedules/test_modern.py"
VIRTUAL = f"{MODERN}::test_a_call_is_cancelled_within_a_tenth_of_a_second_of_its_clients_disconnect"
UNIT = "tests/protocols/mcp"
BACKGROUND = "tests/server/test_background.py"
AFTERWARDS = (
    f"{BACKGROUND}::test_spawned_work_outlives_the_answer_and_is_waited_for_at_shutdown_before_the_application_ends"
)
LOG = "tests/core/test_log.py"
LOSSY = "tests/schedules/test_lossy.py::test_whatever_was_promised_survives_a_crash_at_every_point"
FLOW = "tests/transports/http/test_h2_flow.py"
SAY_202 = '        exchange.respond(202, (), b"Accepted")\n'

MUTANTS = [
    Mutant(
        "the call runs under the context of its request, and ends with it",
        "core/tasks.py",
        [
            (
                '        return self.loop.create_task(work, name="tailrace-call")\n',
                '        task = self.loop.create_task(work, name="tailrace-call")\n'
                "        if (request := asyncio.current_task()) is not None:\n"
                "            request.add_done_callback(lambda _: task.cancel())\n"
                "        return task\n",
            )
        ],
        [f"{OVER_SSE}_in_memory[push-answer-running-False]"],
        "the call was cancelled",
    ),
    Mutant(
        "the end of a legacy POST cancels its call",
        "protocols/mcp/reply.py",
        [("        if self.cancels:\n            self._settle()", "        if True:\n            self._settle()")],
        [f"{STREAMABLE}_with_a_durable_store[disconnect-answer-running]"],
        "the client went away|did not end by itself",
    ),
    Mutant(
        "a session is closed twice",
        "core/session.py",
        [
            (
                "        if self.lifecycle is Lifecycle.OPEN:\n            self.lifecycle = Lifecycle.CLOSING\n",
                "        if True:\n",
            )
        ],
        [f"{CORE}[close-shutdown-over-durable]"],
        r"the session ended \d times|hooks ran as",
    ),
    Mutant(
        "the closed state is tested in one step and set in another",
        "core/session.py",
        [
            ("            self.lifecycle = Lifecycle.CLOSING\n", ""),
            (
                '        """The one way to the end."""\n',
                '        """The one way to the end."""\n        self.lifecycle = Lifecycle.CLOSING\n',
            ),
        ],
        [f"{CORE}[close-shutdown-over-durable]"],
        r"the session ended \d times|hooks ran as",
    ),
    Mutant(
        "keep-alives are written by a second writer",
        "core/writer.py",
        [
            ("from collections.abc import", "import asyncio\nfrom collections.abc import"),
            ('    __slots__ = ("_idle_since"', '    __slots__ = ("_sink", "_idle_since"'),
            ("        self.sweeps.add(self)\n", "        self._sink = sink\n        self.sweeps.add(self)\n"),
            (
                "            self._ping_due = True\n            self.cursor.wake()\n",
                "            asyncio.get_running_loop().create_task(self._sink.write(self.ping))\n",
            ),
        ],
        [f"{CORE}[push-keepalive-running-memory]"],
        "two writers on one connection",
    ),
    Mutant(
        "two readers of one stream",
        "core/log.py",
        [("            self.reader.stop()\n", "            pass\n")],
        [f"{CORE}[push-resume-running-memory]"],
        "can never finish",
    ),
    Mutant(
        "the 202 goes out before the call is committed",
        "protocols/mcp/sse.py",
        [
            (
                "        call.journalled = True\n\n        def",
                f"        call.journalled = True\n{SAY_202}\n        def",
            ),
            (f"            if error is None:\n        {SAY_202}", "            if error is None:\n"),
        ],
        [f"{OVER_SSE}_with_a_durable_store[push-answer-asking]"],
        "a 202 before the call is committed",
    ),
    Mutant(
        "the 202 goes out before the call is accepted",
        "protocols/mcp/sse.py",
        [
            (
                "            reply = SessionReply(endpoint.",
                f"    {SAY_202}            reply = SessionReply(endpoint.",
            ),
            (
                "                return refuse(exchange, 503, error, request.id)\n            return self",
                "                return\n            return self",
            ),
            (f"            if error is None:\n        {SAY_202}", "            if error is None:\n"),
        ],
        [f"{OVER_SSE}_with_a_durable_store[shutdown-answer-asking]"],
        "a 202 before the call is committed|an accepted call has no answer",
    ),
    Mutant(
        "the handler starts before its call is committed",
        "protocols/mcp/sse.py",
        [
            (
                "        call.journalled = True\n\n        def committed",
                "        call.journalled = True\n        call.start()\n\n        def committed",
            )
        ],
        [f"{OVER_SSE}_with_a_durable_store[push-answer-asking]"],
        "starts before the call is committed|logged as our errors",
    ),
    Mutant(
        "a stream begins before its call is committed",
        "protocols/mcp/reply.py",
        [
            (
                "            self._opening = True\n            journal.journals.write(records, self._journalled)\n",
                "            journal.journals.write(records)\n            self._begin()\n",
            )
        ],
        [f"{STREAMABLE}_with_a_durable_store[push-answer-asking]"],
        "a stream begins before the call is committed",
    ),
    Mutant(
        "an event is sent before it is durable",
        "core/log.py",
        [
            (
                "        if self.journal is None:\n            self._make_ready(seq)\n        else:\n",
                "        self._make_ready(seq)\n        if self.journal is not None:\n",
            )
        ],
        [f"{CORE}[push-answer-running-durable]", f"{OVER_SSE}_with_a_durable_store[push-answer-running]"],
        "is sent uncommitted",
    ),
    Mutant(
        "a gap between replay and live: the reader begins at the newest event",
        "core/log.py",
        [("Cursor(self, min(after, self.last))", "Cursor(self, self.last)")],
        [f"{CORE}[answer-resume-running-memory]"],
        "lost or doubled",
    ),
    Mutant(
        "a gap between replay and live: a resume begins at what was sent",
        "protocols/mcp/streamable.py",
        [("            after = endpoint.streams.resume_after(place, log)\n", "            after = log.delivered\n")],
        [f"{STREAMABLE}_with_a_durable_store[answer-resume-running]"],
        "came behind|has no answer",
    ),
    Mutant(
        "the journal is not told that an answered call has ended",
        "protocols/mcp/reply.py",
        [("            records.append(EndCall(journal.session, call.number))\n", "            pass\n")],
        [f"{OVER_SSE}_with_a_durable_store[shutdown-answer-running]"],
        "answered 2 times|holds a call",
    ),
    Mutant(
        "a stored session comes back while all sessions end",
        "server/server.py",
        [("            partition.endpoint.ending = True\n", "            pass\n")],
        ["tests/schedules/test_http_sse.py::test_something_meets_the_end_of_a_drain[resume]"],
        "a session that is kept was not found|hooks ran as",
    ),
    Mutant(
        "a stateless call outlives its client",
        "protocols/mcp/reply.py",
        [("        if self.cancels:\n            self._settle()", "        if False:\n            self._settle()")],
        [f"{VIRTUAL}[json]", f"{VIRTUAL}[sse]"],
        "the call was not cancelled",
    ),
    # --- of the life of sessions and calls ---
    Mutant(
        "a session that ended stays in the table: the unregister is forgotten",
        "protocols/mcp/sessions.py",
        [("        self.sessions.remove(session)\n", "")],
        [f"{OVER_SSE}_in_memory[close-answer-running-False]"],
        "a session did not end",
    ),
    Mutant(
        "the farewell runs under a context that is cancelled",
        "core/session.py",
        [
            (
                "            if self.greeted:\n                await self._home.ended(self, reason)\n",
                "            if self.greeted:\n"
                "                own = asyncio.current_task()\n"
                "                own and own.cancel()\n"
                "                await self._home.ended(self, reason)\n",
            )
        ],
        [f"{CORE}[close-shutdown-over-durable]"],
        "hooks ran as",
    ),
    Mutant(
        "a restored session is greeted as a new one",
        "protocols/mcp/hooks.py",
        [("self._restore if session.restored else self._register", "self._register")],
        [f"{OVER_SSE}_when_the_session_is_only_stored[shutdown-resume]"],
        "hooks ran as",
    ),
    Mutant(
        "a place under the server's cap on calls is never given back",
        "core/tasks.py",
        [("            del self.calls[call]\n            self.ended += 1\n", "            self.ended += 1\n")],
        [f"{OVER_SSE}_in_memory[push-answer-running-False]"],
        "did not end|assert await|waited for its limit",
    ),
    Mutant(
        "the drain forgets what runs detached",
        "core/tasks.py",
        [("        while self.calls or self.detached:\n", "        while self.calls:\n")],
        ["tests/core/test_tasks.py::test_drain_also_waits_for_what_begins_meanwhile"],
        "assert",
    ),
    Mutant(
        "threads stay when the server has ended",
        "core/threads.py",
        [("            self._closed = True\n            dropped", "            dropped")],
        ["tests/core/test_threads.py::test_close_ends_idle_threads"],
        "assert|Timeout",
    ),
    # --- of streams ---
    Mutant(
        "the ring overwrites an answer",
        "core/log.py",
        [
            (
                "        if kind is Kind.NOTIFICATION:\n            self.ring_seqs",
                "        if True:\n            self.ring_seqs",
            )
        ],
        [f"{LOG}::test_answers_and_requests_outlive_any_number_of_notifications"],
        "assert",
    ),
    Mutant(
        "a resume begins one event too late",
        "protocols/mcp/streams.py",
        [("        return min(place.seq, log.last if", "        return 1 + min(place.seq, log.last if")],
        [f"{STREAMABLE}_with_a_durable_store[answer-resume-running]"],
        "came behind|has no answer|no answer",
    ),
    Mutant(
        "a gap is not said in the stream",
        "core/writer.py",
        [("                await sink.write(gap + self.framing", "                await sink.write(self.framing")],
        ["tests/core/test_writer.py::test_what_the_ring_lost_is_said_where_it_is_missing"],
        "assert",
    ),
    Mutant(
        "a gap is not said in the header",
        "protocols/mcp/streams.py",
        [('b"gap" if missing else b"complete"', 'b"complete"')],
        [f"{UNIT}/test_restore.py::test_what_the_ring_could_not_keep_is_named_in_the_header_and_in_the_stream"],
        "assert",
    ),
    # --- of ids and whose they are ---
    Mutant(
        "a cancelled touches another session's call",
        "protocols/mcp/notifications.py",
        [("found = [call for call in session.calls.values()", "found = [call for call in self.endpoint.tasks.calls")],
        [f"{UNIT}/test_request_ids.py::test_cancelled_of_another_session_touches_nothing"],
        "assert|Cancelled|Error",
    ),
    Mutant(
        "calls over Streamable HTTP are told apart by their request id",
        "protocols/mcp/requests.py",
        [("            request.id if by_id else number,\n", "            request.id,\n")],
        [f"{UNIT}/test_request_ids.py::test_twelve_calls_with_the_same_id_each_get_their_own_answer"],
        "assert|Error",
    ),
    Mutant(
        "a session is restored for whoever knows its id",
        "protocols/mcp/recovery.py",
        [("if stored is None or ended or stored.principal != principal:", "if stored is None or ended:")],
        [f"{UNIT}/test_restore.py::test_a_session_is_never_restored_for_another_principal"],
        "assert",
    ),
    # --- of a crash ---
    Mutant(
        "numbers of streams are used again after a restart",
        "protocols/mcp/endpoint.py",
        [("itertools.count((seals.epoch << _EPOCH) + 1)", "itertools.count(1)")],
        [f"{LOSSY}[small]"],
        "is used again|come after|and now is|no answer to a new call|was answered",
    ),
    Mutant(
        "the end of a call is written before its answer, and apart",
        "protocols/mcp/journal.py",
        [("        self._along.extend(records)\n", "        self.journals.write(records)\n")],
        [f"{LOSSY}[small]"],
        "was accepted; on the disk",
    ),
    Mutant(
        "a session is answered before it is stored",
        "protocols/mcp/sessions.py",
        [
            (
                "                await self.endpoint.journals.commit([put_session(session)])",
                "                self.endpoint.journals.write([put_session(session)])",
            )
        ],
        [f"{LOSSY}[small]"],
        "a streamable session was promised",
    ),
    Mutant(
        "an interrupted call runs again after every crash",
        "protocols/mcp/recovery.py",
        [("            and not data.reran\n", "")],
        [f"{LOSSY}[small]"],
        "run again more than once",
    ),
    # --- of tasks ---
    Mutant(
        "a task is told of before it is committed",
        "protocols/mcp/task_making.py",
        [
            (
                "        self.journals.write([place.task.entry()], partial(self._created, call))\n",
                "        self.journals.write([place.task.entry()])\n        self._created(call, None)\n",
            )
        ],
        [f"{UNIT}/test_tasks.py::test_nothing_runs_and_nobody_is_told_before_the_task_is_committed"],
        "assert",
    ),
    Mutant(
        "the end of a task is seen before it is committed",
        "protocols/mcp/tasks.py",
        [
            (
                "        self.journals.write(records, committed)\n",
                "        self.journals.write(records)\n        committed(None)\n",
            )
        ],
        [f"{UNIT}/test_tasks.py::test_an_end_is_seen_once_it_is_committed"],
        "assert",
    ),
    Mutant(
        "a task ends twice",
        "protocols/mcp/tasks.py",
        [
            ("        if task.ended:\n            return\n        task.ended = True\n", "        task.ended = True\n"),
            ("        if task.ended or task.cancelling:\n            return\n", ""),
            (
                "            task.call.cancel(TaskCancelled(",
                '            task.call.cancel(TaskCancelled(""))\n'
                '        self.settle(task, "cancelled", message=str(TaskCancelled(',
            ),
            (
                '"cancelled by its client"))\n        await written',
                '"cancelled by its client")))\n        await written',
            ),
        ],
        [f"{UNIT}/test_tasks.py::test_a_cancel_that_comes_too_late_changes_nothing"],
        "assert",
    ),
    Mutant(
        "a foreign principal reads a task",
        "protocols/mcp/tasks.py",
        [("if task is None or task.principal != principal or", "if task is None or")],
        [f"{UNIT}/test_tasks.py::test_nobody_but_its_principal_finds_a_task[tasks/get]"],
        "assert",
    ),
    Mutant(
        "the disconnect of the request that made a task cancels it",
        "protocols/mcp/task_making.py",
        [("        place.inner.release(call)\n", "")],
        [f"{UNIT}/test_tasks.py::test_a_disconnect_behind_the_stream_that_told_of_it_does_not_touch_a_task"],
        "Timeout",
    ),
    Mutant(
        "a call that its client has left becomes a task that nobody ends",
        "protocols/mcp/task_making.py",
        [("        if call.cancelled_by is not None:  # its client", "        if False:  # its client")],
        ["tests/schedules/test_tasks.py::test_a_task_that_was_told_of_is_there[disconnect-maybe]"],
        "a call is left without a task, or a task without a call",
    ),
    Mutant(
        "a task runs again after every crash",
        "protocols/mcp/task_recovery.py",
        [('tool.on_crash != "rerun" or task.reran:', 'tool.on_crash != "rerun":')],
        [f"{UNIT}/test_tasks.py::test_a_third_run_is_not_tried"],
        "Timeout",
    ),
    Mutant(
        "a stream that listens is not told that the server ends it",
        "server/partition.py",
        [("        self.endpoint.listens.close(reason)\n", "")],
        [f"{UNIT}/test_listen.py::test_at_shutdown_it_ends_with_its_result"],
        "Timeout|assert",
    ),
    Mutant(
        "a stream that listens is told what it did not ask for",
        "protocols/mcp/listen.py",
        [("        return kind is not None and getattr(self.granted, kind)\n", "        return kind is not None\n")],
        [f"{UNIT}/test_listen.py::test_only_the_kinds_that_were_asked_for_are_told_each_with_the_id_of_its_stream"],
        "assert",
    ),
    Mutant(
        "a retry of a call that runs once makes another task",
        "protocols/mcp/task_making.py",
        [("            if same is not None:\n                return same\n", "")],
        [f"{UNIT}/test_tasks.py::test_the_same_key_gives_the_same_task"],
        "assert",
    ),
    Mutant(
        "work after the answer publishes under the request's context, which is over",
        "core/context.py",
        [
            (
                "        outbox: Outbox | None = self.value(OUTBOX)\n",
                "        if self.error is not None:\n            raise self.error\n"
                "        outbox: Outbox | None = self.value(OUTBOX)\n",
            )
        ],
        [AFTERWARDS],
        "the answer is written|Timeout",
    ),
    Mutant(
        "detached work has an empty context",
        "core/context.py",
        [("                detached._values = context._values | (detached._values or {})\n", "                pass\n")],
        [
            f"{BACKGROUND}::test_spawned_work_outlives_the_answer_and_is_waited_for_at_shutdown_before_the_application_ends"
        ],
        "assert|nowhere to go",
    ),
    Mutant(
        "detached work is not tracked",
        "core/tasks.py",
        [("        self.detached[task] = work\n", "")],
        [f"{BACKGROUND}::test_what_never_ends_is_dropped_by_name"],
        "assert",
    ),
    Mutant(
        "a message is published before its call has succeeded",
        "core/context.py",
        [("        if self.call is None or self.call.over:\n", "        if True:\n")],
        [f"{UNIT}/test_publish.py::test_a_call_that_fails_publishes_nothing[memory-tool-modern]"],
        "never",
    ),
    Mutant(
        "a call has succeeded although its messages could not be committed with its answer",
        "core/outgoing.py",
        [("        if error is not None:\n            return self._unpublished(error)\n", "")],
        [f"{UNIT}/test_publish.py::test_a_call_whose_messages_cannot_be_committed_fails[sse-False-commit]"],
        "error",
    ),
    Mutant(
        "the relay forgets a message before the broker has it",
        "publish/relay.py",
        [
            (
                "            if outcome is None:\n                delivered.append(item)\n",
                "            if True:\n                delivered.append(item)\n",
            )
        ],
        ["tests/publish/test_relay.py::test_a_broker_that_goes_away_in_between_gets_the_same_message_again"],
        "assert",
    ),
    Mutant(
        "a slow reader of one HTTP/2 stream blocks the others",
        "transports/http/h2_out.py",
        [
            (
                "        if stream.window > 0:\n            self._join_queue(stream, first=first)\n",
                "        self._join_queue(stream, first=first)\n",
            ),
            (
                "            if stream.waiter is not None and not stream.waiter.done() and stream.window > 0:\n",
                "            if stream.window <= 0:\n                return queue.appendleft(stream)\n"
                "            if stream.waiter is not None and not stream.waiter.done():\n",
            ),
        ],
        [f"{FLOW}::test_a_stream_that_is_not_read_waits_while_others_are_served[asyncio]"],
        "Timeout",
    ),
    Mutant(
        "who does not read one body gets no credit for the others",
        "transports/http/h2_table.py",
        [
            (
                "        if self._credit <= CREDIT // 2 and self._held <= HELD:\n",
                "        if self._credit <= CREDIT // 2 and not self._held:\n",
            )
        ],
        [f"{FLOW}::test_a_body_that_nobody_reads_holds_up_its_sender_and_no_other_stream[asyncio]"],
        "Timeout",
    ),
    Mutant(
        "a client's reset of its stream is not told to the call",
        "transports/http/h2_requests.py",
        [("        self._streams.drop(stream, StreamReset())\n", "        stream.over = True\n")],
        ["tests/server/test_http2.py::test_a_reset_and_the_connections_end_are_told_apart_to_a_modern_call[0]"],
        "Timeout",
    ),
    Mutant(
        "a reset is taken for the connection's end",
        "protocols/mcp/reply.py",
        [("call.cancel(self.exchange.gone_by or ClientGone())", "call.cancel(ClientGone())")],
        ["tests/server/test_http2.py::test_a_reset_and_the_connections_end_are_told_apart_to_a_modern_call[0]"],
        "StreamReset",
    ),
    Mutant(
        "resets cost nothing",
        "transports/http/h2_floods.py",
        [("        self._resets += 1\n", "")],
        ["tests/transports/http/test_h2_floods.py::test_rapid_reset[asyncio]"],
        "Timeout|assert",
    ),
    *ONCE_MUTANTS,
    *ASKING_MUTANTS,
    *FEATURE_MUTANTS,
    *RPC_MUTANTS,
    *RPC_SCHEMA_MUTANTS,
    *RPC_SERVER_MUTANTS,
    *SHARED_MUTANTS,
]
