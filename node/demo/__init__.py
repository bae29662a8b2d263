"""``mycelia demo``: sixteen nodes on one machine train a model while they are killed, and the result is proved exact.

Nothing here is special to the demo: the daemons are ``mycelia up``, the application is ``mycelia run
examples/digits.py``, what is shown comes over the control API.  The demo only starts them, strikes at them, and
afterwards checks what the fabric says against a bare loop that knows nothing of fabrics (:mod:`fl.learn.verify`).
"""

from .main import main

__all__ = ["main"]
