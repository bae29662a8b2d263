"""Settings for all tests.

Hypothesis draws the same examples in every run, so that a commit fails for what it changed;
``HYPOTHESIS_PROFILE=explore`` draws new ones, and more of them.  No deadlines: a busy machine is not a bug.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fl.learn import forkserver

settings.register_profile("steady", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a fork server that serves, outlives all that is done to it, and leaves nothing behind."""
    path = tmp_path_factory.mktemp("fork") / "fork.sock"
    process = forkserver.spawn(path)
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.01)
    yield path
    assert process.poll() is None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0
    assert list(path.parent.iterdir()) == []
