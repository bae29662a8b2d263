"""What strangers, lying members and hostile applications can do to a fabric, in numbers.

    python -m benchmarks.hostile [--only GROUP ...] [--json FILE]

Each group is a module here with one function ``measure() -> Measured``: it starts what it needs on loopback, attacks it
for real, with bounded loops, and answers with aims (what must hold, each decides the exit code) and facts (connections,
frames, bytes, penalties and who got them, memory before and after, honest round times before and during).
"""
