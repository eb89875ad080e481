"""B11: what all processes cost while nothing is to be done: wake-ups and CPU over two minutes.

A server without outbox shows what the server does by itself. All systems rest side by side, each with a server of its own,
after each has delivered a message. The relay of outbox stops its sink after half a minute without work; the time begins
when it has. A wake-up is a voluntary context switch: a thread slept and was woken. What a process that comes or goes
meanwhile uses is not seen.
"""

import contextlib
import time

from .. import debezium
from ..debezium import Debezium
from ..machine import stopped, threads
from ..report import NOTHING, Plot, Report, Table, bar, cell, in_order, spread, values
from ..waiting import wait_for

NAME, TITLE = "idle", "B11: idle"

ROW = "nothing to do"
ALONE, OURS = "the server alone", "outbox"
PROFILES = {f"Debezium {profile}": profile for profile in ("default", "tuned", "low-latency")}

# Whose processes they are: the server's own do not count against anybody.
SERVER = "server"
BESIDE = {ALONE: (), OURS: ("launcher", "relay", "sink")} | dict.fromkeys(PROFILES, ("walsender", "jvm"))


def run(bench, results, rounds, quick):
    seconds, calm = (20, 5) if quick else (120, 30)
    wanted = range(1, (1 if quick else rounds) + 1)
    if all(results.done(NAME, ROW, system, round) for system in BESIDE for round in wanted):
        return
    with contextlib.ExitStack() as keep:
        systems = start(bench, keep)
        time.sleep(calm)  # the server writes down what it has, and goes to rest
        wait_for(lambda: all(map(stopped, systems[OURS]["sink"]())), "outbox's sink to be stopped", timeout=90, pause=0.5)
        for round in wanted:
            before = {system: look(groups) for system, groups in systems.items()}
            began = time.monotonic()
            time.sleep(seconds)
            for system, groups in systems.items():
                passed = time.monotonic() - began
                bench.measured(results, NAME, ROW, system, round, lambda: figures(before[system], look(groups), passed))  # noqa: B023


# -- systems at rest ------------------------------------------------------------------------------------------


def start(bench, keep):
    """By system: the process ids of each group, as functions."""
    return {ALONE: alone(bench, keep), OURS: ours(bench, keep)} | {
        system: rival(bench, keep, profile) for system, profile in PROFILES.items()
    }


def postgres(bench, keep, name, **settings):
    server = bench.postgres(name, **settings)
    keep.callback(server.stop)
    return server


def of_server(server):
    return [server.postmaster_pid, *server.pids("other")]


def alone(bench, keep):
    server = postgres(bench, keep, "idle-alone", shared_preload_libraries="")
    return {SERVER: lambda: of_server(server)}


def ours(bench, keep):
    topic = bench.kafka.topic("idle")
    server = postgres(bench, keep, "idle-outbox", outbox__kafka_bootstrap_servers=bench.kafka.bootstrap)
    server.create_extension()
    # One to each partition: every connection and every partition's first contact is behind it.
    server.execute(f"SELECT outbox.emit('{topic}', g, 'payload') FROM generate_series(1, 100::bigint) g")
    server.wait_for_delivery()
    return {
        SERVER: lambda: of_server(server),
        "launcher": lambda: server.pids("launcher"),
        "relay": lambda: server.pids("relay"),
        "sink": lambda: [server.sink_pid()],
    }


def rival(bench, keep, profile):
    topic = bench.kafka.topic("idle")
    server = postgres(bench, keep, f"idle-{profile}", shared_preload_libraries="")
    server.execute(debezium.CREATE_TABLE, debezium.CREATE_PUBLICATION)
    connector = Debezium.start(server, bench.kafka, profile, folder=bench.folder / f"idle-{profile}-connect")
    keep.callback(connector.stop)
    connector.wait_until_streaming()
    server.execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)"
        f" SELECT '{topic}', g, 'created', 'payload' FROM generate_series(1, 100) g"
    )
    wait_for(lambda: sum(bench.kafka.end_offsets(topic)) == 100, f"Debezium's messages in {topic}", pause=0.2)
    return {SERVER: lambda: of_server(server), "walsender": server.walsender_pids, "jvm": lambda: [connector.pid]}


# -- figures --------------------------------------------------------------------------------------------------


def look(groups):
    """What each thread has used so far, by group."""
    return {group: {thread: used for pid in pids() for thread, used in threads(pid).items()} for group, pids in groups.items()}


def figures(before, now, seconds):
    """Per second: wake-ups and microseconds of CPU of each group, and of each thread's name in it."""
    found, by_name = {}, {}
    for group in now:
        wakes = used = 0
        for thread, (name, wakes_now, used_now) in now[group].items():
            _, wakes_before, used_before = before[group].get(thread, (name, 0, 0))
            wakes += wakes_now - wakes_before
            used += used_now - used_before
            key = f"{group}: {name}"
            by_name[key] = by_name.get(key, 0) + (wakes_now - wakes_before) / seconds
        found[f"wakes_{group}"] = wakes / seconds
        found[f"cpu_us_{group}"] = used / 1000 / seconds
    return found | {"threads": by_name}


def total(system, figure, groups=None):
    """A function of the figures: the sum over what a system adds to the server, or over these groups."""
    groups = BESIDE[system] if groups is None else groups
    return lambda figures: sum(figures[f"{figure}_{group}"] for group in groups)


def report(records):
    systems = in_order(records, "system")
    rows = []
    for system in systems:
        beside = BESIDE[system]
        rows.append([
            system,
            cell(records, ROW, system, total(system, "wakes"), 2) if beside else NOTHING,
            cell(records, ROW, system, total(system, "cpu_us"), 0) if beside else NOTHING,
            cell(records, ROW, system, total(system, "wakes", (SERVER,)), 2),
            cell(records, ROW, system, total(system, "cpu_us", (SERVER,)), 0),
        ])  # fmt: skip
    columns = ["", "wake-ups a second", "CPU, µs a second", "the server's own wake-ups", "its own CPU, µs a second"]
    title = "Beside the server, and the server's own processes; counted from when the sink of outbox is stopped"
    tables = [Table(title, columns, rows)]

    parts = []
    for system in systems:
        for group in BESIDE[system]:
            wakes, used = (values(records, ROW, system, f"{figure}_{group}") for figure in ("wakes", "cpu_us"))
            parts.append([f"{system}: {group}", spread(wakes, 2), spread(used, 0), loudest(records, system, group)])
    tables.append(Table("By process", ["", "wake-ups a second", "CPU, µs a second", "the threads that wake most"], parts))

    added = {system: values(records, ROW, system, total(system, "wakes")) for system in systems if BESIDE[system]}
    series = {system: {"beside the server": bar(found)} for system, found in added.items()}
    plot = Plot("idle-wakes", "Wake-ups a second without work", series, y="a second", log_y=True)
    return Report(tables, [plot] if any(added.values()) else [])


def loudest(records, system, group, most=4):
    """Of the first round: names of threads, and how often a second each kind wakes."""
    found = values(records, ROW, system, "threads")
    if not found:
        return NOTHING
    mine = {name.removeprefix(f"{group}: "): wakes for name, wakes in found[0].items() if name.startswith(f"{group}: ")}
    ordered = sorted(mine.items(), key=lambda one: -one[1])
    return ", ".join(f"{name} {wakes:.2f}" for name, wakes in ordered[:most] if wakes >= 0.005) or "none"
