"""Settings for all tests.

Hypothesis draws the same examples in every run, so that a commit fails for what it changed;
``HYPOTHESIS_PROFILE=explore`` draws new ones, and more of them.  No deadlines: a busy machine is not a bug.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("steady", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
