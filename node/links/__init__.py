"""Links between daemons: authenticated control streams, and bulk transfers on sockets of their own.

Two connections per pair of peers, because they must not share a socket: beside a bulk stream a ping waits behind
the bytes that the kernel has already queued, on its own connection it does not (DESIGN section 5).  ``channels``
knows gRPC and its options, ``streams`` and ``control`` make one symmetric link out of whichever side dialled,
``manager`` keeps all links, ``bulk`` and ``transfers`` move artifacts.
"""
