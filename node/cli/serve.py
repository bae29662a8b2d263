"""The daemon in the foreground: from the state directory to a running node, and back."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time

from .. import logs, sdnotify
from ..assembly import Node
from ..control import ControlServer
from ..operations import Operations
from ..statedir import StateDir
from .command import Session
from .output import short

log = logging.getLogger("mycelia.node")


def run(session: Session) -> None:
    """Until SIGTERM, Ctrl-C, ``mycelia stop`` or ``mycelia leave``.

    Raises ConfigError, StorageError, UsageError when the node cannot start.
    """
    config = session.config
    with StateDir.open(config.state_dir).locked() as state:
        stream = None if session.args.quiet else sys.stderr
        installed = logs.install(config.log, config.log_path, config.node.name or os.uname().nodename, stream)
        try:
            asyncio.run(_serve(session, state))
        finally:
            installed.close()


async def _serve(session: Session, state: StateDir) -> None:
    config = session.config
    node = Node(config, state)
    operations = Operations(node, time.time())
    control = ControlServer(operations, config.socket_path)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, operations.ending.set)
    await node.start()
    try:
        await control.start()
        node.daemon.supervisor.spawn(_watchdog(), "watchdog")
        await _announce(session, operations)
        await operations.ending.wait()
        sdnotify.notify("STOPPING=1")
    finally:
        await node.stop()
        await control.close()
    if operations.left:
        node.give_up()
    log.info("ended")


async def _announce(session: Session, operations: Operations) -> None:
    sdnotify.notify("READY=1")
    status = await operations.status()
    where = ", ".join(status.addresses) or "nowhere: it only dials out"
    log.info("node %s of fabric %s, reached at %s", short(status.id), status.fabric, where)
    if not session.args.quiet:
        session.out.hint(f"up; Ctrl-C ends it. next, in another terminal: {session.mycelia('status')}")


async def _watchdog() -> None:
    pause = sdnotify.watchdog_s()
    while pause is not None:
        sdnotify.notify("WATCHDOG=1")
        await asyncio.sleep(pause)
