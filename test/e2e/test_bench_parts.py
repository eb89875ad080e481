"""The parts of the benchmarks that count (bench/measure): instructions beside their last values, wake-ups without work."""

import json
import os
import sys
from pathlib import Path

import pytest
from support.cluster import PG_BIN
from support.processes import run

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from measure import frames, machine  # noqa: E402
from measure.callgrind import Profile, Slope  # noqa: E402
from measure.parts import idle, instructions  # noqa: E402
from measure.waiting import Failed  # noqa: E402

# main calls work (twice) and tell; work calls tell. Names are given once, and then by their numbers.
PROFILE = """# callgrind format
events: Ir

fl=(1) main.c
fn=(1) main
1 {main}
cfn=(2) work(int, char const*)
calls=2 10
2 {work}
cfi=(2) tell.c
cfn=(3) tell
calls=1 1
+1 7

fn=(2)
* 90
cfn=(3)
calls=4 1
+3 28

fl=(2)
fn=(3)
1 35
"""


def profile(path, main=10, work=118):
    path.write_text(PROFILE.format(main=main, work=work))
    return Profile(path)


def test_a_function_has_its_own_instructions_and_those_of_what_it_calls(tmp_path):
    counted = profile(tmp_path / "one")
    assert counted.instructions("main") == 10 + 118 + 7
    assert counted.instructions("work(int, char const*)") == 90 + 28
    assert counted.instructions("main", "tell") == 135 + 35
    assert (counted.times("tell"), counted.times("work(int, char const*)")) == (5, 2)
    assert counted.total == 10 + 90 + 35


def test_a_function_that_was_renamed_has_no_figure(tmp_path):
    with pytest.raises(Failed, match="has not seen rename"):
        profile(tmp_path / "one").instructions("rename")


def test_what_is_paid_once_has_no_part_in_what_a_message_costs(tmp_path):
    few, many = profile(tmp_path / "few", main=1000), profile(tmp_path / "many", main=3000)
    assert Slope(few, many, 100).total == Slope(few, many, 100).instructions("main") == 20


# -- beside the last values -----------------------------------------------------------------------------------

LAST = {"versions": {"valgrind": "3.19"}, "instructions": {"read": 1000, "frame": 500}}


def rounds(*figures, ok=True):
    versions = {"row": "versions", "system": "outbox", "round": 1, "ok": True, "reason": None, "figures": {"valgrind": "3.19"}}
    return [versions] + [
        {"row": "server", "system": "outbox", "round": number, "ok": ok, "reason": None if ok else "broken", "figures": one}
        for number, one in enumerate(figures, 1)
    ]


def test_five_percent_more_are_let_pass_and_six_are_not():
    assert instructions.complaints(rounds({"read": 1049.0, "frame": 490.0}), LAST) == []
    (complaint,) = instructions.complaints(rounds({"read": 1060.0, "frame": 490.0}), LAST)
    assert complaint.startswith("read: 1,060, +6.0%")
    wal = {"versions": {}, "instructions": {"emit, bytes of WAL": 325}}
    assert instructions.complaints(rounds({"emit, bytes of WAL": 327.0}), wal) == []
    assert len(instructions.complaints(rounds({"emit, bytes of WAL": 329.0}), wal)) == 1


def test_the_median_of_the_rounds_counts():
    assert instructions.complaints(rounds({"read": 990, "frame": 500}, {"read": 1500, "frame": 500}, {"read": 995, "frame": 500}), LAST) == []


def test_a_figure_that_is_not_measured_any_more_is_a_complaint():
    assert instructions.complaints(rounds({"read": 1000.0}), LAST) == ["frame: not measured"]
    assert len(instructions.complaints(rounds({"read": 1000.0, "frame": 500.0}, ok=False), LAST)) == 2


def test_the_table_shows_what_has_grown():
    (table,) = instructions.report(rounds({"read": 1060.0, "frame": 490.0}, {"read": 1060.0, "frame": 500.0}), LAST).tables
    assert table.rows == [["read", "1,060", "0.00%", "1,000", "**+6.0%**"], ["frame", "495", "2.02%", "500", "-1.0%"]]


def test_accepted_figures_are_the_last_values_unless_one_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(instructions, "LAST_VALUES", tmp_path / "instructions.json")
    instructions.accept(rounds({"read": 1.0}, ok=False))
    assert instructions.last_values()["instructions"] == {}
    instructions.accept(rounds({"read": 1059.6, instructions.NOT_JUDGED: 7.0}))
    assert json.loads((tmp_path / "instructions.json").read_text()) == {"versions": {"valgrind": "3.19"}, "instructions": {"read": 1060}}
    assert instructions.complaints(rounds({"read": 1060.0})) == []


# -- a sink that is fed by the benchmarks ---------------------------------------------------------------------


def test_the_frames_of_the_benchmarks_are_what_a_sink_understands(tmp_path):
    program = Path(run([PG_BIN / "pg_config", "--pkglibdir"]).strip()) / "outbox-file"
    sink = frames.Conversation([program, "bench"], path=tmp_path / "out")
    sink.wait(lambda: sink.ready, 30, "its greeting")
    sink.send(frames.message(1, "topic", b"key", b"payload", [(b"name", b"value")]) + frames.message(2, "topic", b"", b"x"))
    sink.wait(lambda: sink.delivered == 2, 30, "two deliveries")
    assert sink.end() == 0
    first, second = map(json.loads, (tmp_path / "out").read_text().splitlines())
    assert (first["topic"], first["key"], first["payload"]) == ("topic", "key", "payload")
    assert (second["key"], second["payload"]) == ("", "x")


# -- idle -----------------------------------------------------------------------------------------------------


def test_a_thread_that_sleeps_is_seen_to_wake():
    def mine():
        return machine.threads(os.getpid())[os.getpid()]

    _, woken, used = mine()
    for _ in range(5):
        os.sched_yield()
        run(["sleep", "0.01"])
    assert mine()[1] >= woken + 5
    assert mine()[2] > used


def test_wake_ups_are_those_of_the_time_between_also_of_threads_that_came():
    before = {"sink": {1: ("main", 10, 1000), 2: ("broker", 5, 0)}}
    now = {"sink": {1: ("main", 30, 21000), 2: ("broker", 5, 0), 3: ("broker", 4, 5000)}}
    found = idle.figures(before, now, 10)
    assert found == {"wakes_sink": 2.4, "cpu_us_sink": 2.5, "threads": {"sink: main": 2.0, "sink: broker": 0.4}}


def test_the_report_shows_what_stands_beside_the_server():
    def record(system, **figures):
        groups = ("server", *idle.BESIDE[system])
        both = {f"{figure}_{group}": 0.0 for figure in ("wakes", "cpu_us") for group in groups} | {"threads": {}}
        return {"row": idle.ROW, "system": system, "round": 1, "ok": True, "reason": None, "figures": both | figures}

    records = [record(idle.ALONE, wakes_server=5.0), record(idle.OURS, wakes_server=5.0, wakes_sink=3.25, threads={"sink: rdk:main": 1.2})]
    beside, by_process = idle.report(records).tables
    assert [row[:2] for row in beside.rows] == [[idle.ALONE, "–"], [idle.OURS, "3.25"]]
    assert by_process.rows[-1] == ["outbox: sink", "3.25", "0", "rdk:main 1.20"]
