"""The daemon: asyncio driver, transports, membership, control API, command line."""

import os

# Before anything imports gRPC, which reads it once: its core prints every refused handshake to stderr, in a format of
# its own; what matters of that is raised to us, logged and counted.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
