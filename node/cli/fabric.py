"""Founding, inviting, joining, leaving, expelling."""

from __future__ import annotations

import argparse
import sys

from protocol.errors import UsageError

from . import starter
from .command import Command, Session
from .nodes import end_daemon
from .output import moment, short

# ---- init ------------------------------------------------------------------------------------------------------------


def _init(session: Session) -> None:
    from . import enter  # noqa: PLC0415 - certificates and gRPC take 0.3 s that the other commands need not pay

    entered = enter.found_fabric(session)
    lines = [
        f"founded fabric {entered.fabric} with node {short(entered.node)}",
        *session.out.fields(
            [
                ("state", entered.state_dir),
                ("configuration", entered.config),
                ("owner key", session.state_dir / "owner.key"),
            ]
        ),
    ]
    session.out.answer(entered, lines)
    session.out.hint(
        "The owner key is the fabric's root of trust: keep a copy offline. Who has it decides who may join.\n"
        f"next: {session.mycelia('up')}"
    )


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the fabric, for people; 1 to 40 characters")
    parser.add_argument("--zone", type=int, default=0, metavar="N", help="number of this node's zone (0)")
    starter.add_arguments(parser)


INIT = Command(
    name="init",
    summary="Found a fabric, with this node as its first member.",
    text=(
        "Makes the fabric's owner key, this node's key and its certificate in the state directory, and a configuration "
        "file to start from. Nothing is contacted. Run it once per fabric; every other node uses `mycelia join`."
    ),
    examples=(
        ("init clinic", "found the fabric `clinic`"),
        ("-C /var/lib/mycelia init clinic --listen [::]:7447", "in another directory, on a fixed port"),
        ("init lab --bind digits=digits:0/3", "and offer the first third of the built-in digits for training"),
    ),
    then="mycelia up",
    configure=_init_arguments,
    run=_init,
)


# ---- invite ----------------------------------------------------------------------------------------------------------


def _invite(session: Session) -> None:
    hours = session.args.hours
    if not 0 < hours <= 24 * 365:
        raise UsageError(f"an invitation cannot last {hours:g} hours", "use --hours with a number up to 8760")
    invitation = session.ask(lambda daemon: daemon.invite(int(hours * 3600)))
    session.out.answer(invitation, [invitation.token])
    session.out.hint(
        f"It admits one node, once, and expires {moment(invitation.expires)}. Hand it over like a password.\n"
        "next: on the other machine: mycelia join TOKEN"
    )


INVITE = Command(
    name="invite",
    summary="Print a token that lets one node join.",
    text=(
        "The token names the fabric, this node's addresses and a secret that works once, so nobody needs to compare "
        "fingerprints. The node must be an issuer (the one that ran `mycelia init` is) and its daemon must run. Print "
        "one token per node."
    ),
    examples=(
        ("invite", "a token that is valid for a day"),
        ("invite --hours 1", "for an hour"),
        ("-C b join $(mycelia -C a invite)", "both nodes on one machine"),
    ),
    then="mycelia join TOKEN, on the other machine",
    configure=lambda parser: parser.add_argument(
        "--hours", type=float, default=24.0, metavar="H", help="hours until the token expires (24)"
    ),
    run=_invite,
)


# ---- join ------------------------------------------------------------------------------------------------------------


def _join(session: Session) -> None:
    from . import enter  # noqa: PLC0415 - see _init

    given = session.args.token
    token = sys.stdin.readline() if given == "-" else given
    entered = enter.join_fabric(session, token)
    lines = [
        f"joined fabric {entered.fabric} as node {short(entered.node)}",
        *session.out.fields([("state", entered.state_dir), ("configuration", entered.config)]),
    ]
    session.out.answer(entered, lines)
    session.out.hint(f"next: {session.mycelia('up')}")


def _join_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("token", metavar="TOKEN", help="what `mycelia invite` printed; - reads it from standard input")
    starter.add_arguments(parser)


JOIN = Command(
    name="join",
    summary="Make this node a member of a fabric, with a token.",
    text=(
        "Makes this node's key, checks that the issuer belongs to the fabric that the token names, and gets this node "
        "its certificate. The private key never leaves this machine. A join that was interrupted can be repeated with "
        "the same token."
    ),
    examples=(
        ("join mycelia1.gqRm...", "join with the token"),
        ("join - < token.txt", "the token from a file, so that it is not in the shell's history"),
        ("join TOKEN --bind ward=ward.csv:outcome", "and offer a table, its column `outcome` as label, as `ward`"),
        ("join TOKEN --listen ''", "as a leaf member that only dials out, behind a firewall"),
    ),
    then="mycelia up",
    configure=_join_arguments,
    run=_join,
)


# ---- leave and revoke ------------------------------------------------------------------------------------------------


def _leave(session: Session) -> None:
    if not session.args.yes:
        raise UsageError(
            "leaving gives up this node's membership for good", "repeat with --yes, or stop the daemon: mycelia stop"
        )
    end_daemon(session, lambda daemon: daemon.leave())
    session.out.answer({"left": True}, ["left the fabric; the daemon has ended"])
    session.out.hint("Models and logs are still in the state directory. Coming back takes a new invitation.")


LEAVE = Command(
    name="leave",
    summary="Leave the fabric for good.",
    text=(
        "Tells the neighbours, hands over what this node guards, gives up the certificate and ends the daemon. To stop "
        "the daemon and come back later as the same node, use `mycelia stop`."
    ),
    examples=(("leave --yes", "leave"),),
    then="nothing; `mycelia join` with a new token and a new state directory to come back",
    configure=lambda parser: parser.add_argument("--yes", action="store_true", help="really"),
    run=_leave,
)


def _revoke(session: Session) -> None:
    node = session.ask(lambda daemon: daemon.revoke(session.args.node))
    session.out.answer({"revoked": node}, [f"revoked node {short(node)}"])
    session.out.hint("Every node that hears of it closes its links to that node; it cannot join again with its key.")


REVOKE = Command(
    name="revoke",
    summary="Expel a node.",
    text=(
        "Publishes a signed statement that the node's certificate is void. It spreads through the fabric in seconds; "
        "nodes that are offline hear of it when they come back. Only issuers may revoke, and not one another: that "
        "takes the owner key."
    ),
    examples=(("revoke 3f2a91bc", "expel the node that `mycelia peers` shows as 3f2a91bc"),),
    then="mycelia peers, to see that it is gone",
    configure=lambda parser: parser.add_argument(
        "node", metavar="NODE", help="its id, or as much of it as is unique; see `mycelia peers`"
    ),
    run=_revoke,
)
