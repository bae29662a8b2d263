"""From certificates to TLS: what gRPC links and the join listener are given.

Both ends of a link always show a certificate; there is no plaintext, no "optional" and no unverified mode to fall back
to.  A channel takes the leaf of the moment at which it is dialled.  A server asks for it at each handshake, so that a
renewal, or an authority that was added or withdrawn, needs no restart and touches no standing connection.  It is
answered with a configuration only when there is a new one: gRPC replaces what its other handshakes are using at that
moment, without a lock, and some hundreds of replacements end the process.
"""

from __future__ import annotations

import ssl
import tempfile
import threading
from collections.abc import Callable, Sequence

import grpc
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from .certificates import Leaf


class Credentials(msgspec.Struct, frozen=True, gc=False):
    """What one node shows, and under which authorities it accepts others."""

    leaf: Leaf
    roots_pem: bytes


def roots_pem(authorities: Sequence[bytes]) -> bytes:
    """The trust store (PEM) that holds exactly ``authorities`` (DER)."""
    return b"".join(x509.load_der_x509_certificate(authority).public_bytes(Encoding.PEM) for authority in authorities)


def channel_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    """For dialling.  They verify the server's chain, which any member can show.  *Who* it is, the channel's option
    ``grpc.ssl_target_name_override`` = ``certificates.node_name(peer)`` makes it prove: never dial without.
    """
    leaf = credentials.leaf
    return grpc.ssl_channel_credentials(credentials.roots_pem, leaf.key_pem, leaf.chain_pem)


class Configurations:
    """What a gRPC server is told of its credentials: the first configuration, then only those that differ."""

    def __init__(self, current: Callable[[], Credentials]) -> None:
        """``current`` is asked at each handshake."""
        self._current = current
        self._given = current()
        self._lock = threading.Lock()
        self.first = _configuration(self._given)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The configuration of now, once; None while it is what was given last.  Called on any thread."""
        with self._lock:
            credentials = self._current()
            if credentials == self._given:
                return None
            self._given = credentials
            return _configuration(credentials)


def _configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
    pair = (credentials.leaf.key_pem, credentials.leaf.chain_pem)
    return grpc.ssl_server_certificate_configuration([pair], credentials.roots_pem)


def server_credentials(current: Callable[[], Credentials]) -> grpc.ServerCredentials:
    """For listening.  A client certificate is required; ``current`` is asked at each handshake, on gRPC's threads.

    ``certificates.peer_of`` then says who the client is.
    """
    told = Configurations(current)
    return grpc.dynamic_ssl_server_credentials(told.first, told.changed, require_client_authentication=True)


def join_server_context(leaf: Leaf) -> ssl.SSLContext:
    """TLS of the join listener: proves this node to joiners, who have no certificate to show yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    load_leaf(context, leaf)
    return context


def load_leaf(context: ssl.SSLContext, leaf: Leaf) -> None:
    """Make ``context`` show ``leaf`` from its next handshake on."""
    # OpenSSL's binding takes file names only; the file has mode 0600 and lives for the duration of the call.
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(leaf.key_pem + leaf.chain_pem)
        file.flush()
        context.load_cert_chain(file.name)


def join_client_context(authorities_pem: bytes) -> ssl.SSLContext:
    """TLS of a joiner that knows the fabric's authorities: verifies chain and name (pass ``server_hostname``)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=authorities_pem.decode("ascii"))
    return context


def join_probe_context() -> ssl.SSLContext:
    """TLS of a joiner that knows nothing yet: unverified, good only for fetching what its invitation then verifies."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
