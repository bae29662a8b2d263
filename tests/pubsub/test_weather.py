"""Everything at once: messages lost, repeated and overtaken, hosts that crash, sleep and are cut off; then calm.

Links of the real world lose nothing without breaking, so this is harsher than it need be: whatever is lost here without
a word must be repaired by the protocol alone.  Whatever the weather does, one round has one model, each model is the
sum of its contributors, and when it clears the application ends.
"""

from __future__ import annotations

import pytest

from protocol.messages import Message
from protocol.streams import Stream
from pubsub.config import TreeConfig
from tests.pubsub.harness import MS, SECOND, Host, Net, Rule

CALM = 600 * SECOND
CONFIG = TreeConfig(beat=2 * SECOND)


class Storm:
    """Faults by a seed, on a network that works."""

    def __init__(self, seed: int) -> None:
        self.stream = Stream(seed, "weather")
        size = 8 + self.stream.below(10)
        self.net = Net(
            size, leaves=self.stream.below(3), fan_out=2 + self.stream.below(3), rounds=12, seed=seed, config=CONFIG
        )
        for host in self.net.hosts.values():
            host.training = (50 + self.stream.below(800)) * MS
        self.net.weather = self._message

    def _message(self) -> Rule:
        """The fate of one message."""
        draw = self.stream.below(100)
        if draw < 3:
            return Rule(Message, lose=True)
        if draw < 6:
            return Rule(Message, copies=2)
        return Rule(Message, delay=self.stream.below(30) * MS)

    def blow(self) -> None:
        """Half a minute of it."""
        net = self.net
        for _ in range(10):
            up = [host for host in net.hosts.values() if host.started and host.frozen is None]
            down = [host for host in net.hosts.values() if not host.started]
            match self.stream.below(6):
                case 0 | 1 if len(up) > len(net.hosts) * 2 // 3:
                    net.crash(self.stream.choice(up))
                case 2 if down:
                    net.restart(self.stream.choice(down))
                case 3 if len(up) > len(net.hosts) * 2 // 3:
                    self._doze(self.stream.choice(up))
                case 4 if not net.cut:
                    net.divide(self.stream.sample(up, 1 + self.stream.below(len(up) // 2)))
                case _ if net.cut:
                    net.heal()
            net.run(self.stream.below(6 * SECOND))

    def _doze(self, host: Host) -> None:
        self.net.freeze(host)
        self.net.after(self.stream.below(8 * SECOND), lambda: self.net.thaw(host) if host.frozen is not None else None)

    def clear_up(self) -> None:
        self.net.weather = None
        self.net.heal()
        for host in self.net.hosts.values():
            if host.frozen is not None:
                self.net.thaw(host)
            if not host.started:
                self.net.restart(host)


@pytest.mark.parametrize("seed", range(8))
def test_when_the_weather_clears_the_application_ends_and_every_sum_is_right(seed: int) -> None:
    storm = Storm(seed)
    net = storm.net
    net.start()
    storm.blow()
    net.check_sums()
    storm.clear_up()
    net.run_until(net.finished, CALM)
    net.check_sums()
    net.run_until(lambda: all(not host.forest.groves for host in net.hosts.values()), CALM)
    assert not any(host.ring.watched for host in net.hosts.values())
