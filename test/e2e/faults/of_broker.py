"""Faults of the broker, of the network before it, and of its topics."""

from faults.fault import fault
from faults.load import Topic
from faults.means import Means
from faults.world import Proxy


class FaultsOfBroker(Means):
    @fault("broker", weight=2)
    def suspend_broker(self, chance):
        seconds = chance.choice((0.3, 1, 3, 8))
        with self._trouble():
            self.world.suspend_broker()
            self.last(seconds)
            self.world.resume_broker()
        return f"for {seconds} s"

    @fault("broker", weight=2)
    def kill_broker(self, chance):
        seconds = chance.choice((0, 1, 3))
        self._broker_restarts()
        with self._trouble():
            self.world.kill_broker()
            self.last(seconds)
            self.world.start_broker()
        return f"down for {seconds} s"

    @fault("broker", weight=0.7)
    def stop_broker(self, chance):
        self._broker_restarts()
        with self._trouble():
            self.world.broker.stop()
            self.last(chance.choice((3, 20)))
            self.world.start_broker()

    def _broker_restarts(self):
        """A broker that was killed may make the client give up and begin anew: a fatal error of the producer."""
        for database in self.world.databases:
            self._sink_dies(database)

    if Proxy:

        @fault("broker")
        def reset_connections(self, chance):
            """Nobody knows which requests have arrived; the broker does, and drops what comes again."""
            times = chance.choice((1, 1, 5))
            with self._trouble():
                for _ in range(times):
                    self.world.network.reset()
                    self.last(0.3)
            return f"{times} times"

        @fault("broker")
        def lose_acknowledgements(self, chance):
            with self._trouble():
                self.world.network.lose_replies = chance.choice((1, 3, 10))
                self.last(chance.uniform(1, 5))
                self.world.network.heal()
            return f"{self.world.network.lost} lost so far"

        @fault("broker")
        def silence_network(self, chance):
            """Half-open: connections are there, and nothing passes."""
            seconds = chance.choice((0.5, 3, 12))
            with self._trouble():
                self.world.network.hang()
                self.last(seconds)
                self.world.network.heal()
            return f"for {seconds} s"

        @fault("broker", weight=0.7)
        def refuse_connections(self, chance):
            with self._trouble():
                self.world.network.refuse()
                self.last(chance.uniform(0.5, 5))
                self.world.network.heal()

        @fault("broker", weight=0.7)
        def slow_network(self, chance):
            delay, rate = chance.choice((0.02, 0.2, 1)), chance.choice((0, 0, 200_000))
            with self._trouble():
                self.world.network.delay, self.world.network.rate = delay, rate
                self.last(chance.uniform(2, 8))
                self.world.network.heal()
            return f"{delay} s each way, {rate or 'any number of'} bytes a second"

    @fault("topic", weight=0.7)
    def late_topic(self, chance):
        """The application emits to a topic that somebody creates only later."""
        if len(self.late_topics) >= 4:
            return "enough of them"
        number, partitions = 100 + len(self.late_topics), chance.randint(1, 3)
        seconds = chance.choice((1, 5, 15))
        name = f"{self.load.topics[0].name}-late-{number}"
        self.late_topics.append((name, partitions))
        self.load.add_topic(Topic(number, name, partitions))
        self.last(seconds)
        if not self.ending.is_set():
            with self.held["broker"]:
                self.world.broker.create_topic(name, partitions)
        return f"{name} after {seconds} s"

    @fault("topic")
    def refuse_messages(self, chance):
        """The broker takes only small messages of a topic for a while: larger ones are parked, and retried."""
        topic = self.load.topics[chance.randrange(4)].name
        seconds = chance.choice((1, 4, 10))
        too_soon = chance.random() < 0.5
        with self.held["broker"]:
            self.world.set_topic(topic, **{"max.message.bytes": "800"})
        self.last(seconds / 2)
        if too_soon:
            self._retry(topic)
        self.last(seconds / 2)
        with self.held["broker"]:
            self.world.set_topic(topic, **{"max.message.bytes": None})
        return f"{topic} for {seconds} s, {self._retry(topic)} parked"

    def _retry(self, topic):
        numbers = []
        for database in self.world.databases:
            self._persist(lambda d=database: numbers.append(d.value("SELECT outbox.retry(%s::text)", topic)))
        return sum(numbers)
