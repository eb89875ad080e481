"""What operators do, at bad moments."""

import psycopg

from faults.fault import fault
from faults.means import Means
from faults.world import IN_FLIGHT


class FaultsOfOperators(Means):
    @fault("operator")
    def pause(self, chance):
        database = self._database(chance)
        with self._relays_stop([database]):
            try:
                database.sql("SELECT outbox.pause()")
                self.last(chance.uniform(0.2, 5))
            finally:
                self._persist(lambda: database.sql("SELECT outbox.resume()"))

    @fault("operator", weight=0.5)
    def disable(self, chance):
        with self._relays_stop():
            try:
                self._persist(lambda: self.server.reload(outbox__enabled="off"))
                self.last(chance.uniform(0.2, 4))
            finally:
                self._persist(lambda: self.server.reload(outbox__enabled=None))

    @fault("operator")
    def change_settings(self, chance):
        database = self._database(chance)
        settings = {
            "outbox__segment_size": chance.choice(("64kB", "1MB", "16MB")),
            "outbox__max_in_flight_messages": str(chance.choice((1, 50, IN_FLIGHT, IN_FLIGHT))),
            "outbox__max_in_flight_bytes": chance.choice(("64kB", "2MB", "32MB")),
        }
        with self._relays_stop([database]):
            self._persist(lambda: database.set(**settings))
            self.last(3)
            usual = {"outbox__max_in_flight_messages": str(IN_FLIGHT), "outbox__segment_size": "16MB"}
            self._persist(lambda: database.set(**usual))
        return ", ".join(settings.values())

    @fault("operator", weight=0.5)
    def reload_often(self, chance):
        with self._relays_stop():
            for _ in range(20):
                self.server.sql("SELECT pg_reload_conf()")

    @fault("table", weight=0.7)
    def rebuild_table(self, chance):
        number, command = chance.randint(1, 4), chance.choice(("VACUUM FULL", "VACUUM", "REINDEX TABLE", "ANALYZE"))
        self._database(chance).sql(f"{command} outbox.segment_{number}")
        return f"{command} {number}"

    @fault("table")
    def lock_like_a_dump(self, chance):
        with self._database(chance).connect(autocommit=False) as session:
            session.execute("LOCK TABLE outbox.segment_1, outbox.segment_2, outbox.segment_3 IN ACCESS SHARE MODE")
            self.last(chance.uniform(0.5, 5))

    @fault("table", weight=0.5)
    def drop_extension_and_think_better_of_it(self, chance):
        database = self._database(chance)
        self._sink_dies(database)  # what needs the database for itself lets the sink finish for a second only
        with database.connect(autocommit=False) as session:
            session.execute("SET lock_timeout = '3s'")
            session.execute("DROP EXTENSION outbox CASCADE")
            session.rollback()

    @fault("table", weight=0.5)
    def read_everything(self, chance):
        """A long report under an old snapshot, as somebody looks at the backlog."""
        with self._database(chance).connect(autocommit=False) as session:
            session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            session.execute("SELECT count(*) FROM outbox.messages")
            self.last(chance.uniform(1, 15))

    @fault("table", weight=0.5)
    def checkpoint(self, chance):
        self.server.sql(chance.choice(("CHECKPOINT", "SELECT pg_switch_wal()")))

    @fault("database")
    def another_database(self, chance):
        """Comes with the extension, emits, and is dropped under its relay."""
        self.server.sql("DROP DATABASE IF EXISTS other WITH (FORCE)")
        self.server.sql("CREATE DATABASE other")
        with self.server.connect("other") as session:
            session.execute("CREATE EXTENSION outbox")
            session.execute("SELECT outbox.emit('nobody', 'k', 'p')")
        self.last(chance.uniform(0, 2))
        self.server.sql("DROP DATABASE other WITH (FORCE)")

    @fault("database", weight=0.5)
    def clone_database(self, chance):
        """Refused while sessions are there; the relay has left for it, and comes back."""
        database = self._database(chance)
        self._sink_dies(database)
        try:
            self.server.sql(f"CREATE DATABASE clone TEMPLATE {database.name}")
        except psycopg.errors.ObjectInUse:
            return "refused"
        self.server.sql("DROP DATABASE clone WITH (FORCE)")
        return "cloned"
