"""Subscriptions: order, bounds, ends."""

from __future__ import annotations

import asyncio

from node.subscriptions import Hub, Lost


def test_each_sees_everything_in_order_and_the_slow_lose_the_oldest() -> None:
    async def scenario() -> None:
        hub = Hub()
        with hub.subscribe() as quick, hub.subscribe(limit=2) as slow:
            for notice in range(5):
                hub.publish(notice)
            hub.close()
            assert [notice async for notice in quick] == [0, 1, 2, 3, 4]
            assert [notice async for notice in slow] == [Lost(3), 3, 4]

    asyncio.run(scenario())


def test_a_waiting_subscriber_is_woken_by_news_and_by_the_end() -> None:
    async def scenario() -> None:
        hub = Hub()
        subscription = hub.subscribe()
        waiting = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        hub.publish("news")
        assert await waiting == "news"
        ending = asyncio.ensure_future(anext(subscription, "over"))
        await asyncio.sleep(0)
        subscription.close()
        assert await ending == "over"
        hub.publish("unheard")

    asyncio.run(scenario())
