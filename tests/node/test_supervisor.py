"""The supervisor: what it stops, what it lets through, what it owns."""

from __future__ import annotations

import asyncio
import logging

import pytest

from node.supervisor import Supervisor


def test_failures_are_logged_with_their_traceback_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise RuntimeError("a bug")

    async def scenario() -> None:
        supervisor = Supervisor()
        await supervisor.spawn(broken(), "task")
        with supervisor.guard("step"):
            await broken()
        assert supervisor.failures == {"task": 1, "step": 1}

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert all(record.exc_info for record in caplog.records)


def test_closing_cancels_all_even_what_has_not_begun() -> None:
    async def scenario() -> None:
        supervisor = Supervisor()
        begun = supervisor.spawn(asyncio.Event().wait(), "wait")
        await asyncio.sleep(0)
        fresh = supervisor.spawn(asyncio.Event().wait(), "wait")
        await supervisor.close()
        assert begun.cancelled()
        assert fresh.cancelled()
        assert not supervisor.failures

    asyncio.run(scenario())


def test_cancellation_is_no_failure() -> None:
    supervisor = Supervisor()
    with pytest.raises(asyncio.CancelledError), supervisor.guard("step"):
        raise asyncio.CancelledError
    assert not supervisor.failures
