"""What a federated round costs beyond its trainings: ``python -m benchmarks.round [--nodes 16] [--rounds 20]``.

Runs ``mycelia demo --no-kill``: real daemons, and afterwards, on the same cores and in the same run, the same trainings
in idle worker processes with no fabric around them.  The difference of the two medians is the overhead.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from .report import Aim, Report, leave, parser


def main() -> None:
    options = parser("round", "Overhead of a federated round of a small model.")
    options.add_argument("--nodes", type=int, default=16)
    options.add_argument("--rounds", type=int, default=20)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "demo.json"
        subprocess.run(
            [sys.executable, "-m", "node", "demo", "--nodes", str(args.nodes), "--rounds", str(args.rounds),
             "--no-kill", "--alpha", "0.5", "--json", str(out), "--model", str(Path(directory) / "model.safetensors")],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        demo = json.loads(out.read_text())
    report = Report("round", facts={key: demo[key] for key in ("nodes", "rounds", "startup_s", "accuracy")})
    report.facts["round_ms_median"] = demo["round_ms_median"]
    report.facts["bare_round_ms_median"] = demo["bare_round_ms_median"]
    report.facts["ratio_to_bare"] = round(demo["round_ms_median"] / demo["bare_round_ms_median"], 3)
    report.aims.append(Aim("overhead of a round, median", demo["round_overhead_ms_median"], 50.0, unit="ms"))
    leave(report, args.json)


if __name__ == "__main__":
    main()
