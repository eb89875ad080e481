"""Faults of processes: sinks, relays, sessions and the server itself are killed, suspended, terminated and restarted."""

import contextlib
import os
import signal

from faults.conduct import Finding
from faults.fault import fault
from faults.means import Means
from faults.world import IN_FLIGHT
from support.processes import alive
from support.waiting import wait_for

ORPHAN = 5  # seconds that a process may outlive its parent
# How far saved progress may be behind when a server crashes: it is saved every 50 ms, without a flush of its own;
# the WAL writer flushes within three of its rounds of 400 ms. Nearly twice that, because the machine is busy.
UNSAVED = 2.0


class FaultsOfProcesses(Means):
    @fault("sink", weight=3)
    def kill_sink(self, chance):
        database = self._database(chance)
        which = chance.choice((signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV))
        pid = self.vitals.pid("sink", database)
        if not pid:
            return "no sink"
        self._sink_dies(database)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, which)
        return f"{which.name} {pid}"

    @fault("sink")
    def suspend_sink(self, chance):
        return self._suspend("sink", self._database(chance), chance.uniform(0.2, 6))

    @fault("relay")
    def suspend_relay(self, chance):
        return self._suspend("relay", self._database(chance), chance.uniform(0.2, 4))

    def _suspend(self, kind, database, seconds):
        pid = self.vitals.pid(kind, database)
        if not pid:
            return f"no {kind}"
        with self._trouble(), contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self.last(seconds)
            os.kill(pid, signal.SIGCONT)
        return f"{kind} {pid} for {seconds:.1f} s"

    @fault("relay", weight=2)
    def terminate_relay(self, chance):
        database = self._database(chance)
        with self._relays_stop([database]):
            self.server.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE backend_type = 'outbox relay' AND datname = %s",
                database.name,
            )

    @fault("relay", weight=0.5)
    def cancel_workers(self, chance):
        self.server.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'outbox %'")

    @fault("relay", weight=0.7)
    def terminate_launcher(self, chance):
        """At times with the relays: they die while nobody is there to start others."""
        which = chance.choice(("launcher", "launcher", "%"))
        with self._relays_stop():
            self.server.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'outbox ' || %s", which
            )
        return which

    @fault("server", "sink", "relay")
    def kill_relay(self, chance):
        pid = self.vitals.pid("relay", self._database(chance))
        return self._kill_server_process(pid, "relay") if pid else "no relay"

    @fault("server", "sink", "relay", weight=0.5)
    def kill_launcher(self, chance):
        pid = self.vitals.pid("launcher")
        return self._kill_server_process(pid, "launcher") if pid else "no launcher"

    @fault("server", "sink", "relay", weight=2)
    def kill_backend(self, chance):
        """A session in the middle of whatever it does, or one of the server's own processes."""
        kind = chance.choice(("client backend", "client backend", "walwriter", "checkpointer", "background writer"))
        rows = self.server.sql(
            "SELECT pid FROM pg_stat_activity "
            "WHERE backend_type = %s AND (datname IS NULL OR application_name = 'load') ORDER BY pid",
            kind,
        )
        return self._kill_server_process(chance.choice(rows)[0], kind) if rows else f"no {kind}"

    @fault("server", "sink", "relay", weight=2)
    def kill_postmaster(self, chance):
        sinks = self._sinks()
        self._server_crashes()
        os.kill(self.server.postmaster_pid, signal.SIGKILL)
        self._expect_end(sinks)
        self.last(chance.uniform(0, 1))
        self.server.recover_after_kill()
        self.starts += 1

    @fault("server", "sink", "relay")
    def restart_fast(self, chance):
        with self._relays_stop():
            self._restart("fast", chance)

    @fault("server", "sink", "relay", weight=2)
    def restart_immediate(self, chance):
        sinks = self._sinks()
        self._server_crashes()
        self._restart("immediate", chance)
        self._expect_end(sinks)

    @fault("server", "sink", "relay", "operator", "table", "database", "sessions", weight=0.7)
    def restart_smart(self, chance):
        """Which waits for the sessions to leave, so they do."""
        everybody = (self.load.away, self.vitals.away)
        for away in everybody:
            away.set()
        try:
            with self._relays_stop():
                self._restart("smart", chance)
        finally:
            for away in everybody:
                away.clear()

    def _restart(self, mode, chance):
        self.server.stop(mode)
        self.last(chance.choice((0, 0, 1)))
        self.server.start()
        self.starts += 1

    @fault("sessions")
    def terminate_sessions(self, chance):
        rows = self.server.sql(
            "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE application_name = 'load' "
            "ORDER BY pid LIMIT %s) AS s", chance.randint(1, 5),
        )
        return f"{len(rows)} sessions"

    @fault("sessions")
    def hiccup(self, chance):
        """Every session stands still for a moment, wherever it is: at times between its positions and its rows."""
        for _ in range(10):
            rows = self.server.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'load'")
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for (pid,) in rows:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                if number == signal.SIGSTOP:
                    self.last(chance.uniform(0.05, 0.3))
            self.last(chance.uniform(0.05, 0.2))

    # -- what becomes of them --------------------------------------------------------------------------------

    def _server_crashes(self):
        """What was acknowledged since progress was last on disk may arrive twice, too."""
        for database in self.world.databases:
            unsaved = self.vitals.delivered_lately(database, UNSAVED)
            self.may_repeat[database.name] += IN_FLIGHT + unsaved

    def _kill_server_process(self, pid, name):
        """PostgreSQL then restarts everything, as it must."""
        before = self.server.log_size()
        sinks = self._sinks()
        self.killed.add(pid)
        self._server_crashes()
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return f"{name} {pid} was gone"
        self.starts += 1
        self._expect_end(sinks)
        self.server.wait_for_crash_restart(pid, before)
        return f"{name} {pid}"

    def _sinks(self):
        return [pid for kind, _, pid in self.vitals.processes() if kind == "sink"]

    def _expect_end(self, pids):
        """None of them publishes on without its relay."""
        try:
            wait_for(lambda: not any(alive(pid) for pid in pids), f"the end of {pids}", ORPHAN)
        except AssertionError as error:
            self.findings.append(Finding("I6", "orphan", str(error)))
