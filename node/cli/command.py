"""What a command is: one value from which parser, help and reference are built."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from protocol.errors import ConfigError

from .. import config as configuration
from ..control import connect
from ..service import DaemonService
from .output import Output

T = TypeVar("T")


class Session:
    """One run of a command: its arguments, where its answer goes, and the node that it is about."""

    def __init__(self, args: argparse.Namespace, out: Output) -> None:
        self.args = args
        self.out = out
        self.flaw: ConfigError | None = None
        """What is wrong with the configuration file, once somebody went on without it."""

    @cached_property
    def config(self) -> configuration.NodeConfig:
        """The node's configuration, read when it is first needed.  Raises ConfigError."""
        return configuration.load(self.args.state, self.args.config)

    @cached_property
    def where(self) -> configuration.NodeConfig:
        """As much of the configuration as is needed to find the node and talk to it.  A mistake in the file is no
        reason to be unable to look at a daemon, or to stop it: then :attr:`flaw` says what is wrong."""
        try:
            return self.config
        except ConfigError as error:
            self.flaw = error
            return configuration.find(self.args.state, self.args.config)

    @property
    def state_dir(self) -> Path:
        return self.where.state_dir

    def daemon(self) -> DaemonService:
        """The running daemon; its methods raise NotRunningError when there is none."""
        return connect(self.where.socket_path)

    def ask(self, question: Callable[[DaemonService], Awaitable[T]]) -> T:
        """The daemon's answer, from outside any event loop."""

        async def asked() -> T:
            return await question(self.daemon())

        return asyncio.run(asked())

    def mycelia(self, command: str) -> str:
        """``mycelia COMMAND`` as it must be typed to reach the same node."""
        state = f"-C {self.args.state} " if self.args.state else ""
        return f"mycelia {state}{command}"


Run = Callable[[Session], None]
Configure = Callable[[argparse.ArgumentParser], object]
"""Adds a command's arguments; what it returns does not matter."""


def _nothing(_: argparse.ArgumentParser) -> None:
    return


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command, or a group of commands.  ``run`` is None for a group."""

    name: str
    summary: str
    """One line, imperative: what it does."""
    text: str = ""
    """What a newcomer must know, a few sentences."""
    examples: tuple[tuple[str, str], ...] = ()
    """(what to type after ``mycelia``, what it does)"""
    then: str = ""
    """The usual next step."""
    run: Run | None = None
    configure: Configure = _nothing
    children: tuple[Command, ...] = field(default=())
    passthrough: bool = False
    """Its arguments are read by the command itself."""
