"""Write the golden vectors:  python -m tests.protocol.make_vectors

One pair of files for each registered kind: ``KIND-Name.bin`` is the frame, ``KIND-Name.json`` says what is in it.
Frames of the past stay readable, so a changed vector is a change of the protocol: only a field added at the end with
a default may change one.  The review of such a change is the diff of the ``.json``.
"""

from __future__ import annotations

import json
import pathlib

from protocol import wire
from protocol.messages import Contact, Message, Routed
from tests.protocol.describe import describe
from tests.protocol.instances import example, registered

VECTORS = pathlib.Path(__file__).parent / "vectors"
TRACE = 7
ROUTED = "routed"


def stem(cls: type[Message]) -> str:
    """File name of a type's vector."""
    return f"{cls.KIND:03}-{cls.__name__}"


def routed_example() -> Routed:
    """The one vector of a routed frame: the header is the same for all kinds."""
    first = registered()[0]
    return Routed(bytes(range(16)), example(Contact), 3, example(first))


def vectors() -> dict[str, tuple[bytes, str]]:
    """Frame and description by file name."""
    made: dict[str, Message | Routed] = {stem(cls): example(cls) for cls in registered()}
    made[ROUTED] = routed_example()
    return {name: (wire.encode(message, TRACE), _explain(message)) for name, message in made.items()}


def _explain(message: Message | Routed) -> str:
    inner = message.message if isinstance(message, Routed) else message
    envelope = {"version": wire.VERSION, "kind": inner.KIND, "trace": TRACE, "body": describe(inner)}
    if isinstance(message, Routed):
        header = {"key": message.key, "origin": message.origin, "hops": message.hops}
        envelope["header"] = {"Header": {name: describe(part) for name, part in header.items()}}
    return json.dumps({"Envelope": envelope}, indent=1) + "\n"


def main() -> None:
    """Write them all and remove those of kinds that are gone."""
    VECTORS.mkdir(exist_ok=True)
    for old in VECTORS.iterdir():
        old.unlink()
    for name, (frame, description) in vectors().items():
        (VECTORS / f"{name}.bin").write_bytes(frame)
        (VECTORS / f"{name}.json").write_text(description)


if __name__ == "__main__":
    main()
