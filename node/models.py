"""Models by name: which version is meant, and how its content comes to this node.

The journal says which versions there are.  A node that slept through the end of a run knows from a record that there
is a later one, and asks for it before it hands out an earlier one under the run's plain name.  What is not held here is
fetched from whoever guards it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

from fl.notices import Recover
from protocol.errors import MyceliaError, TransportError

from .assembly import Node
from .names import find_model, may_mean
from .service import CHUNK, AppInfo, ModelInfo
from .waiting import until


class Models:
    """The models that one node knows."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def known(self) -> list[ModelInfo]:
        return self._node.journal.models(self._node.daemon.artifacts.has)

    async def find(self, reference: str) -> ModelInfo:
        """The model NAME or NAME@VERSION; its run's end is sought first where this node slept through it.

        Raises UsageError, and TransportError when the last version was not to be had.
        """
        journal = self._node.journal
        lacking = [run for run in journal.infos() if may_mean(run, reference) and _lacks_its_end(run)]
        for run in lacking:
            app = bytes.fromhex(run.id)
            self._node.daemon.command(Recover(app, journal.guardians(app)))
        if lacking:
            with suppress(TransportError):
                runs = [bytes.fromhex(run.id) for run in lacking]
                await until(
                    self._node.keeper,
                    lambda: all(journal.info(run).complete for run in runs),
                    "the last model did not come",
                )
        model = find_model(self.known(), reference)
        still = journal.info(bytes.fromhex(model.app))
        if "@" not in reference and _lacks_its_end(still):
            raise TransportError(
                f"{still.name} has finished with version {still.base + still.round}, which nobody who guards it gave "
                f"out; this node has version {model.version}",
                f"try again later or on another node, or ask for {still.name}@{model.version}",
            )
        return model

    async def read(self, blob: bytes) -> AsyncIterator[bytes]:
        """The content, in pieces of at most ``CHUNK`` bytes.  Raises UsageError, TransportError."""
        artifacts = self._node.daemon.artifacts
        if not artifacts.has(blob):
            await self.fetch(blob)
        reader = artifacts.reader(blob)
        try:
            while chunk := await reader.read():
                for start in range(0, len(chunk), CHUNK):
                    yield chunk[start : start + CHUNK]
        finally:
            reader.close()

    async def fetch(self, blob: bytes) -> None:
        """Bring a model here from whoever guards it.  Raises UsageError, TransportError."""
        size, peers = self._node.journal.sources(blob)
        failure: MyceliaError = TransportError(
            "nobody who guards that model is known", "run the command on another node"
        )
        for peer in peers:
            if peer != self._node.membership.node:
                try:
                    await self._node.daemon.fetch(peer, blob, size)
                except TransportError as error:
                    failure = error
                else:
                    return
        raise failure


def _lacks_its_end(run: AppInfo) -> bool:
    """Has it finished, without this node having its last round?"""
    return run.status == "finished" and not run.complete
