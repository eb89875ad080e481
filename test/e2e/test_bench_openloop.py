"""The benchmarks' open loop (bench/measure/openloop.py) and the parts that use it: what is due, late, or falls behind."""

import sys
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("hdrh")

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from measure import openloop, timeline  # noqa: E402
from measure.openloop import CLIENTS, Sent  # noqa: E402
from measure.parts import horizon, latency, outage, recovery  # noqa: E402
from measure.waiting import Failed  # noqa: E402

SECOND = 1_000_000_000


def evenly(rate, seconds, delay_ns):
    """So many a second; `delay_ns` is a number or a function of the moment (seconds)."""
    due = np.arange(0, seconds, 1 / rate)
    delays = np.array([delay_ns(at) if callable(delay_ns) else delay_ns for at in due])
    due = (due * SECOND).astype(np.int64) + SECOND
    sent = Sent(np.arange(1, len(due) + 1), due, due + 500_000)
    return sent, (sent.returned + delays).astype(np.int64)


# -- pgbench's log ------------------------------------------------------------------------------------------


def test_numbers_are_counted_client_by_client(tmp_path):
    log = tmp_path / "log.1"
    log.write_text("3 1 2000 0 1700000000 000500 10\n0 1 1000 0 1700000000 000600 5\n3 2 3000 0 1700000001 000000 0\n")
    sent = openloop.read_logs([log])
    assert sorted(sent.numbers.tolist()) == [1, 4, CLIENTS + 4]
    second_of_client_3 = sent.numbers.tolist().index(CLIENTS + 4)
    assert sent.returned[second_of_client_3] == 1_700_000_001 * SECOND
    assert sent.due[second_of_client_3] == 1_700_000_001 * SECOND - 3_000_000


def test_a_failed_transaction_is_counted_as_failed(tmp_path):
    log = tmp_path / "log.1"
    log.write_text("0 1 failed 0 1700000000 000600 5\n0 2 1000 0 1700000000 000700 5\n")
    assert openloop.read_logs([log]).failed == 1


# -- latencies ----------------------------------------------------------------------------------------------


def test_what_arrived_before_the_answer_counts_as_nothing():
    counted = openloop.histogram(np.array([-5_000_000, 0, 3_000_000]))
    assert counted.get_total_count() == 3
    assert openloop.quantiles(counted) == pytest.approx({"p50": 0, "p99": 3, "p99.9": 3, "max": 3}, rel=0.001)


def test_histograms_of_several_rounds_are_added():
    texts = [openloop.encoded(openloop.histogram(np.full(count, 1_000_000))) for count in (10, 20)]
    assert openloop.decoded(texts).get_total_count() == 30


def test_a_steady_delay_does_not_grow_and_a_queue_does():
    sent, arrived = evenly(1000, 10, 5_000_000)
    assert openloop.growth(sent.due, (arrived - sent.due) / 1e9) == 0
    sent, arrived = evenly(1000, 10, lambda at: at * 0.2 * SECOND)
    assert openloop.growth(sent.due, (arrived - sent.due) / 1e9) == pytest.approx(0.2, rel=0.01)
    sent, arrived = evenly(1000, 10, lambda at: 3 * SECOND if 4 < at < 5 else 0)
    assert openloop.growth(sent.due, (arrived - sent.due) / 1e9) == 0


def test_who_polls_twice_a_second_does_not_fall_behind():
    sent, arrived = evenly(100, 9.7, lambda at: (0.7 - at % 0.7) * SECOND)
    assert openloop.growth(sent.due, (arrived - sent.due) / 1e9) == 0


def latency_record(system, delay_ns, row="1000/s", number=1):
    sent, arrived = evenly(1000, 10, delay_ns)
    arrivals = np.zeros(len(arrived) + 1, dtype=np.int64)
    arrivals[sent.numbers] = arrived
    figures = latency.judged(sent, arrivals, 1000, 2, 8) | {"cpu_relay": 1.0, "cpu_sink": 1.0, "cpu_jvm": 0.0}
    return {"row": row, "system": system, "round": number, "ok": True, "reason": None, "figures": figures}


def test_the_report_of_latencies_has_them_in_order_and_their_ratio():
    records = [latency_record("outbox", 2_000_000), latency_record("Debezium tuned", 20_000_000)]
    delivery, whole, *_, ratios, cores = latency.report(records).tables
    assert delivery.rows[0] == ["1000/s, outbox", "2.00", "2.00", "2.00", "2.00", "1,000"]
    assert whole.rows[1][:2] == ["1000/s, Debezium tuned", "20.51"]
    assert ratios.rows == [["1000/s, Debezium tuned", "0.100", "0.100", "1.000"]]
    assert cores.rows[0][1] == "0.200"


def test_a_rate_that_is_not_kept_up_with_has_no_latency():
    records = [latency_record("outbox", 2_000_000), latency_record("Debezium tuned", lambda at: at * 0.1 * SECOND)]
    found = latency.report(records)
    assert found.tables[0].rows[1][:3] == ["1000/s, Debezium tuned", "does not keep up", ""]
    assert all("Debezium tuned" not in plot.series for plot in found.plots)


def test_a_rate_that_is_not_committed_has_no_latency():
    record = latency_record("outbox", 2_000_000)
    record["figures"]["target_rate"] = 1200
    assert latency.report([record]).tables[0].rows[0][1] == "does not keep up: the commits already fall behind"


# -- over time ----------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_last_look():
    series = timeline.sizes_series(np.array([[SECOND, 1, 2, 3], [3 * SECOND, 4, 5, 6]]), SECOND)
    assert [timeline.at(series, "wal", moment) for moment in (0, 1.9, 2, 9)] == [1, 1, 4, 4]
    assert timeline.highest(series, "table", 0, 9) == 5


def sizes(seconds):
    return np.array([[SECOND + at * SECOND, 16 << 20, at << 20, at << 20] for at in range(seconds)])


def test_an_obstacle_is_judged_by_what_was_before_and_by_its_end():
    sent, arrived = evenly(100, 60, lambda at: 50_000_000 if 30 < at < 50 else 1_000_000)
    figures = horizon.judged(sent, arrived, sizes(60), 11 * SECOND, 51 * SECOND)
    assert figures["p99_before"] < 2 < 50 <= figures["p99_during"] < 52
    assert figures["rate_during"] == pytest.approx(100, rel=0.02)
    assert figures["table_a_minute"] == 60 << 20


def test_the_lag_is_over_when_half_of_what_comes_is_in_time():
    """Away from 10 to 20; what waited comes from 21 to 23, mixed with what is new."""
    sent, arrived = evenly(1000, 40, 1_000_000)
    at = (sent.due - SECOND) / 1e9
    late = (at > 10) & (at < 22)
    arrived[late] = ((21 + (at[late] - 10) / 12 * 2 + 1) * SECOND).astype(np.int64)
    back = 21 * SECOND
    figures = outage.judged(sent, arrived, sizes(41), 11 * SECOND, back)
    assert figures["caught_up"] == pytest.approx(2.5, abs=0.6)
    assert figures["caught_up_under_load"]
    assert figures["first_after"] == pytest.approx(1.0, abs=0.1)


def test_an_outage_that_is_not_made_good_under_load_says_so():
    sent, arrived = evenly(100, 40, 1_000_000)
    late = (sent.due - SECOND) / 1e9 > 10
    arrived[late] = sent.due[-1] + np.arange(1, late.sum() + 1) * 1_000_000
    figures = outage.judged(sent, arrived, sizes(41), 11 * SECOND, 21 * SECOND)
    assert not figures["caught_up_under_load"]
    figures |= {"messages": 4000, "lost": 0, "duplicates": 0, "disorder": 0}
    record = {"row": "60 s", "system": "outbox", "round": 1, "ok": True, "reason": None, "figures": figures}
    rows = {row[0]: row[1] for row in outage.report([record]).tables[0].rows}
    assert rows["lost"] == "0"
    assert rows["no lag any more, s after that"].endswith("after the load had ended")


def test_a_sink_is_back_when_something_begun_after_its_end_arrives():
    """Killed at 5 and at 20: what was due before the kill may arrive after it, and does not count."""
    sent, arrived = evenly(100, 40, lambda at: 300_000_000 if 4.9 < at < 5.5 else 1_000_000)
    kills = [6 * SECOND - 1_000_000, 21 * SECOND - 1_000_000]
    figures = recovery.ways_back(sent, arrived, kills, [kills[0] + 2_000_000, kills[1] + 4_000_000])
    assert (figures["process_ms"], figures["process_most_ms"]) == (3, 4)
    assert figures["first_most_ms"] == pytest.approx(301.5, abs=1)
    with pytest.raises(Failed, match="nothing was sent after the last kill"):
        recovery.ways_back(sent, arrived, [100 * SECOND], [100 * SECOND])


def recovered(row, system, round, **figures):
    figures = {"count": 10, "lost": 0, "duplicates": 3, "disorder": 0, "changed": 0} | figures
    return {"row": row, "system": system, "round": round, "ok": True, "reason": None, "figures": figures}


def test_a_broker_in_trouble_is_seen_beside_one_that_is_well_round_by_round():
    times = {recovery.ALIVE: (4, 8), recovery.KILLED: (2, 12)}
    records = [
        recovered(recovery.BESIDE, state, round, p50_ms=1, p99_ms=p99, max_ms=p99)
        for round in (1, 2) for state, both in times.items() for p99 in [both[round - 1]]
    ]  # fmt: skip
    rows = recovery.report(records).tables[0].rows
    assert [row[0] for row in rows] == [recovery.ALIVE, recovery.KILLED]
    assert rows[1][4] == "1.00 (0.50–1.50)"


def test_disk_is_what_it_was_before_at_most_and_at_the_end():
    rows = np.array([[SECOND, 1, 10, 100], [2 * SECOND, 5, 90, 180], [3 * SECOND, 4, 0, 110]])
    found = recovery.extremes(rows)
    assert [found[f"table_{when}"] for when in ("before", "highest", "end")] == [10, 90, 0]
    assert [found[f"database_{when}"] for when in ("before", "highest", "end")] == [100, 180, 110]
    assert found["wal_highest"] == 5


def test_the_report_has_a_table_for_each_kind_of_trouble():
    sizes = {f"{kind}_{when}": 1 << 20 for kind in ("table", "database", "wal") for when in ("before", "highest", "end")}
    backlog = {"emitted_rate": 5, "first_s": 1, "drain_s": 2, "rate": 7, "peak_relay": 1 << 20, "peak_sink": 3 << 20} | sizes
    kills = {"kills": 2, "process_ms": 1, "process_most_ms": 2, "first_ms": 3, "first_most_ms": 4}
    records = [
        recovered(recovery.SINK, recovery.OUTBOX, 1, **kills),
        recovered(recovery.BESIDE, recovery.ALIVE, 1, p50_ms=1, p99_ms=2, max_ms=3),
        recovered(recovery.row_of(recovery.BEHIND), recovery.OUTBOX, 1, **backlog),
    ]
    sinks, beside, behind = recovery.report(records).tables
    assert dict(sinks.rows)["came twice"] == dict(behind.rows)["came twice"] == "3"
    assert beside.title.startswith("Transactions at 400 a second, each with an UPDATE")
    assert dict(behind.rows)["sink, peak memory, MiB"] == "3"
