"""Every limit and every waiting time in one place, with its default (`docs/security.md`, `docs/cli.md` list them)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Settings", "takeover_time"]

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a server may be told. Durations in seconds, sizes in bytes."""

    # how long
    drain: float = 25.0  # at shutdown, for running calls
    shutdown_delay: float = 0.0  # from the signal on, while new work is still accepted
    keep_alive: float = 15.0  # between keep-alives of an idle stream; a modern call becomes a stream after it
    hold: float = 0.05  # how long a legacy answer is waited for before its reply becomes a stream
    stall: float = 30.0  # a peer that takes no byte
    body_time: float = 30.0  # to send a request's body
    header_time: float = 10.0  # to send a request's head, from its first byte to its last
    tls_time: float = 10.0  # for a TLS handshake
    ping_time: float = 30.0  # HTTP/2: open requests, and not a byte: is the client there? It has as long to say so
    idle_time: float = 75.0  # of a connection between two requests, and before its first
    hook_time: float = 5.0  # for a hook
    auth_time: float = 5.0  # for the verifier of a bearer token
    grace: float = 5.0  # for a cancelled call to end
    session_idle: float = 1800.0
    session_infancy: float = 60.0  # of a session that was never initialized
    task_hold: float = 0.5  # for the answer of a call that becomes a task otherwise (`task="auto"`)
    task_ttl: float = 3600.0  # how long a task is kept from its end on
    task_poll: float = 0.5  # between two looks of a client at its task, as clients are told
    answer_time: float = 3600.0  # how long answers are kept for a resume
    ask_time: float = 300.0  # for a client to answer what a handler asks it
    state_time: float = 3600.0  # 2026-07-28: for a client to come back with its answers
    dialogue_time: float = 86_400.0  # the same, for all of its legs; steps are remembered as long
    eof_drain: float = 1.5  # stdio: for running calls after the end of input
    store_wait: float = 30.0  # for another process that holds the store
    lease: float = 5.0  # Valkey: for which a process owns its partitions unless it renews that
    once_ttl: float = 86_400.0  # for which the answer of a call with an idempotency key is remembered
    rpc_time: float | None = None  # for a call over RPC: the default of its time-out, and the most a client may give
    list_ttl: float = 60.0  # for which a modern client may keep a list, and what the server is
    retry: int = 2000  # milliseconds, told to clients as SSE `retry`

    # how much
    max_body: int = 4 * _MIB
    max_headers: int = 64 * 1024  # a request's head: request line and header fields
    max_connections: int = 10_000
    unread: int = 256 * _MIB  # HTTP: replies that their peers do not read, over all connections
    arriving: int = 512 * _MIB  # HTTP: bodies that are not complete, over all connections; beyond 64 KiB of each
    look_ahead: int = 64 * 1024  # requests that a client sends before it has its reply (pipelining)
    max_streams: int = 128  # HTTP/2: requests at once on one connection
    stream_window: int = 256 * 1024  # HTTP/2: of one request's body, what is not read yet
    max_result: int = 4 * _MIB
    max_message: int = 4 * _MIB  # one message of an RPC's request, decompressed; one of its answer: `max_result`
    min_compress: int = 1024  # of an RPC's answer: smaller messages are not compressed
    rpc_ahead: int = 64 * 1024  # of a streamed answer, that its connection has not taken; above it its handler waits
    max_calls: int = 1000
    max_session_calls: int = 100
    max_sessions: int = 10_000
    max_detached: int = 1000
    max_outbox: int = 100_000  # messages that wait for the broker
    max_threads: int = 64
    max_batch: int = 100
    max_listens: int = 1000  # streams of `subscriptions/listen`, over all clients
    max_connection_listens: int = 16  # the same, of one conversation over stdio
    max_watched: int = 100  # tasks and resources that one such stream names
    max_tasks: int = 10_000  # kept, working or not
    max_principal_tasks: int = 5_000  # the same, of one principal
    task_bytes: int = 512 * _MIB  # arguments and results of all tasks; over it no new one begins
    max_asked: int = 32  # requests to one session's client that wait for an answer
    max_rounds: int = 64  # legs of one call that ask (2026-07-28)
    max_state: int = _MIB  # a requestState: the answers so far, which a client carries from leg to leg
    max_step: int = 64 * 1024  # the result of one step, as JSON
    max_steps: int = 100_000  # steps that are recorded
    max_greeting: int = 64 * 1024  # parameters of `initialize`: a session keeps what they say of its client
    said: int = 64 * _MIB  # what clients say and sessions keep: capabilities (over 1 KiB each), URIs they wait for
    ring: int = _MIB  # notifications of one stream
    kept: int = _MIB  # delivered answers of one stream
    session_log: int = 16 * _MIB  # all streams of one session; an answer that does not fit is replaced by an error
    finished: int = 2000  # ended streams that a session keeps for a resume
    server_log: int = 512 * _MIB  # all streams of all sessions
    unwritten: int = 4 * _MIB  # stdio: answers that nobody reads yet
    max_once: int = 200_000  # idempotency keys that are remembered
    max_once_principal: int = 100_000  # the same, of one principal
    max_once_bytes: int = 256 * _MIB  # of all of them and their answers; in memory 48 MiB at most
    state: int = 64 * 1024  # a session's own values, as JSON
    page: int = 100  # tools in one page of tools/list

    # who may
    allow_hosts: tuple[str, ...] = ()  # beside loopback; "*" for any
    allow_origins: tuple[str, ...] = ()  # beside the host's own; "*" for any

    require_connect_header: bool = False  # Connect calls without `connect-protocol-version` are refused
    stateless: bool = False  # legacy requests without sessions


def takeover_time(lease: float, hook_time: float) -> float:
    """Seconds after which what a member of several owned is another's: two leases, and the hooks of its sessions. So
    long a request waits for its next owner, and a member that ends for those of its own clients.

    Args:
        lease: As `Settings.lease`.
        hook_time: As `Settings.hook_time`.
    """
    return 2 * lease + hook_time
