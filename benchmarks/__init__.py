"""Measurements against the budgets of the design: ``python -m benchmarks.NAME --json FILE``.

Each prints what it measured, writes it as JSON, and exits non-zero when an aim is missed, saying by how much.  Machines
are noisy, so aims that compare are ratios within one run, and times are medians of several.
"""
