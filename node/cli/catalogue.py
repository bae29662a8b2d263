"""All commands."""

from __future__ import annotations

from .apps import LS
from .check import CHECK
from .command import Command
from .fabric import INIT, INVITE, JOIN, LEAVE, REVOKE
from .models import MODELS
from .nodes import LOGS, PEERS, STATUS, STOP
from .run import ATTACH, RUN
from .settings import CONFIG
from .topics import DEMO, HELP
from .trust import TRUST
from .up import UP

ROOT = Command(
    name="mycelia",
    summary="A fabric of equal nodes that trains models where the data is, without a central server.",
    text=(
        "Every node runs a daemon (`mycelia up`) on a state directory that holds its key, its certificate and its "
        "models. Every other command talks to the daemon of the same state directory. An application is a Python file; "
        "it gets a tree over the nodes that have data for it, and trains in rounds."
    ),
    then="mycelia demo, or mycelia COMMAND --help",
    children=(
        DEMO,
        INIT,
        INVITE,
        JOIN,
        UP,
        STATUS,
        PEERS,
        LOGS,
        STOP,
        CONFIG,
        CHECK,
        RUN,
        ATTACH,
        LS,
        MODELS,
        TRUST,
        REVOKE,
        LEAVE,
        HELP,
    ),
)
