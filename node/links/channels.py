"""gRPC as the links use it: options, addresses, connecting, and who is at the other end.

Every option below was measured. Without ``bdp_probe=0`` a stalled stream swallows 30 to 60 MiB instead of its 2 MiB
window; without a local subchannel pool the bulk channel would share the control channel's socket; with a proxy in the
environment gRPC sends even loopback through it. There are no gRPC keep-alives: the ring above watches its peers and any
byte is a sign of life.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from node.blobs import WorthlessError
from node.identity.certificates import node_name, peer_of
from node.identity.credentials import Credentials, channel_credentials, server_credentials
from protocol.errors import AuthError, ConfigError, TransportError
from protocol.ids import NodeId
from protocol.wire import MAX_FRAME

SERVICE = "mycelia.Link"
CONTROL = f"/{SERVICE}/Control"
FETCH = f"/{SERVICE}/Fetch"
PUSH = f"/{SERVICE}/Push"

ACCEPTED = ("mycelia-link", "1")
"""Initial metadata of every accepted call.  A call that failed has initial metadata too, but it is empty."""
REVOKED = ("mycelia-refused", "revoked")
"""Trailing metadata of a call that is refused because the caller's membership was revoked."""

_WINDOW = 2 << 20
_MESSAGE = MAX_FRAME + 64 * 1024
_STAGGER = 0.25
"""Seconds before the next address of a contact is tried beside the ones before it (RFC 8305)."""

OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", _WINDOW),
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", _MESSAGE),
    ("grpc.max_send_message_length", _MESSAGE),
    ("grpc.max_metadata_size", 8192),
)
_SERVER_OPTIONS: tuple[tuple[str, int | str], ...] = (
    *OPTIONS,
    ("grpc.max_concurrent_streams", 64),
    ("grpc.server_handshake_timeout_ms", 5000),
    ("grpc.max_connection_idle_ms", 60_000),
)


Current = Callable[[], Credentials]
"""What this node shows and trusts at this moment: leaves are short-lived, so it is asked for at each use."""


class UnreachableError(TransportError):
    """No address of the peer answered with its certificate."""


class DisownedError(TransportError):
    """The peer refuses this node because its membership was revoked, as the peer says."""


@contextmanager
def errors() -> Iterator[None]:
    """The seam: gRPC's several ways of saying that a call is over become TransportError."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        kind = WorthlessError if error.code() is grpc.StatusCode.DATA_LOSS else TransportError
        raise kind(f"{error.code().name.lower()}: {error.details()}"[:200]) from None
    except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
        raise TransportError(f"the call is over: {error}"[:200]) from None
    except asyncio.CancelledError:
        # A cancelled *call* is reported with the exception that means a cancelled *task*.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise TransportError("the call was aborted") from None


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` → host without brackets, port.  Raises ConfigError."""
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or not port.isdigit() or int(port) > 65535 or (":" in bare and bare == host):
        raise ConfigError(f"{address!r} is not an address", "write host:port, or [address]:port for IPv6")
    return bare, int(port)


def _target(address: str) -> str:
    host, port = split_address(address)
    if ":" in host:
        return f"ipv6:[{host}]:{port}"
    return f"ipv4:{host}:{port}" if host.replace(".", "").isdigit() else f"dns:{host}:{port}"


def make_server(handlers: dict[str, Any]) -> Any:
    """A server, not yet bound, for the methods of the link service."""
    server = grpc.aio.server(options=_SERVER_OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    return server


def bind(server: Any, path: str, current: Current) -> None:
    """Listen on the unix socket ``path``: where strangers are, ``front`` does.  Raises ConfigError."""
    try:
        server.add_secure_port(f"unix:{path}", server_credentials(current))
    except RuntimeError:
        raise ConfigError(f"cannot listen on {path}", "is there room in the directory for temporary files?") from None


async def open_channel(peer: NodeId, addresses: Sequence[str], current: Current, limit: float) -> Any:
    """A connected channel to ``peer`` over the first of ``addresses`` that answers with its certificate.

    Connections are raced, streams are not: the other side must never see two links of which one is about to vanish.
    Raises UnreachableError when none answered within ``limit`` seconds.
    """
    attempts: list[asyncio.Task[Any]] = []
    reason = "no address"
    try:
        async with asyncio.timeout(limit):
            waiting = list(addresses)
            while waiting or attempts:
                if waiting:
                    attempts.append(asyncio.create_task(_connect(peer, waiting.pop(0), current)))
                pause = _STAGGER if waiting else None
                done, _ = await asyncio.wait(attempts, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                for attempt in done:
                    attempts.remove(attempt)
                    error = attempt.exception()
                    if error is None:
                        return attempt.result()
                    if not isinstance(error, TransportError):
                        raise error
                    reason = str(error)
    except TimeoutError:
        reason = f"no answer within {limit:g} s"
    finally:
        await _discard(attempts)
    raise UnreachableError(f"cannot reach {peer.hex()}: {reason}")


async def _discard(attempts: list[asyncio.Task[Any]]) -> None:
    for attempt in attempts:
        attempt.cancel()
    for result in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(result, grpc.aio.Channel):
            await result.close()


async def _connect(peer: NodeId, address: str, current: Current) -> Any:
    try:
        target = _target(address)
    except ConfigError as error:
        raise TransportError(str(error)) from None
    options = (*OPTIONS, ("grpc.ssl_target_name_override", node_name(peer)))
    channel = grpc.aio.secure_channel(target, channel_credentials(current()), options=options)
    try:
        state = channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
                raise TransportError(await _why(channel))
            await channel.wait_for_state_change(state)
            state = channel.get_state(try_to_connect=True)
    except BaseException:
        await channel.close()
        raise
    return channel


async def _why(channel: Any) -> str:
    """The sentence in which gRPC says why a channel failed: only a call gets to hear it."""
    call = channel.stream_stream(CONTROL)()
    detail = str(await call.details() or "connection failed")
    return detail[:200]


async def identify(context: Any) -> NodeId:
    """The caller of an incoming call, as its verified certificate names it; never what it says.  Else ends the call."""
    try:
        return peer_of(context.auth_context())
    except AuthError as error:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        raise
