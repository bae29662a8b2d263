"""Run the attacks: see the package."""

from __future__ import annotations

from collections.abc import Callable

from ..report import Report, leave, parser
from . import applications, records, strangers, transfers
from .measured import Measured

GROUPS: dict[str, Callable[[], Measured]] = {
    "strangers": strangers.measure,
    "records": records.measure,
    "applications": applications.measure,
    "transfers": transfers.measure,
}
"""By name, in the order in which they run."""


def main() -> None:
    options = parser("hostile", "Strangers, liars and hostile applications against real daemons.")
    options.add_argument(
        "--only", action="append", choices=sorted(GROUPS), metavar="GROUP", help="run this group alone"
    )
    args = options.parse_args()
    report = Report("hostile")
    for name in args.only or GROUPS:
        measured = GROUPS[name]()
        report.aims += measured.aims
        report.facts |= {f"{name}: {key}": value for key, value in measured.facts.items()}
    leave(report, args.json)


if __name__ == "__main__":
    main()
