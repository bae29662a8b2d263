"""The yardstick: one plain gRPC stream under mutual TLS between two processes, into a buffer, nothing else.

``python -m benchmarks.plain_stream`` is the sending process; the receiving side runs in the benchmark's own.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import msgspec

from node.identity.certificates import node_name
from node.identity.credentials import Credentials, channel_credentials, server_credentials
from tests.node.fabric import Fabric

CHUNK = 1 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", 2 * CHUNK),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 2 * CHUNK),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


class Setup(msgspec.Struct):
    credentials: Credentials
    size: int


async def _send() -> None:
    setup = msgspec.json.decode(sys.stdin.buffer.readline(), type=Setup)
    chunk = bytes(CHUNK)

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(setup.size // CHUNK):
            yield chunk

    server = grpc.aio.server(options=OPTIONS)
    handler = grpc.unary_stream_rpc_method_handler(stream)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("plain", {"Get": handler}),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(lambda: setup.credentials))
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    await server.stop(None)


async def rate(size: int, repeats: int = 3) -> float:
    """Bytes/s of the best of ``repeats`` streams of ``size`` bytes."""
    sender, receiver = Fabric(2).members
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.plain_stream"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(msgspec.json.encode(Setup(sender.credentials, size)) + b"\n")
    process.stdin.flush()
    port = int(process.stdout.readline())
    options = (*OPTIONS, ("grpc.ssl_target_name_override", node_name(sender.id)))
    best = 0.0
    credentials = channel_credentials(receiver.credentials)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        for _ in range(repeats):
            buffer, offset, started = bytearray(size), 0, time.monotonic()
            async for chunk in channel.unary_stream("/plain/Get")(b""):
                buffer[offset : offset + len(chunk)] = chunk
                offset += len(chunk)
            assert offset == size
            best = max(best, size / (time.monotonic() - started))
    process.stdin.close()
    process.wait(10)
    return best


if __name__ == "__main__":
    asyncio.run(_send())
