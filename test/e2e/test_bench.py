"""The benchmarks' books (bench/measure, bench/load): no run that lost, doubled, mixed up or changed a message has a number."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from measure import books, messages, report  # noqa: E402
from measure.books import Expected  # noqa: E402
from measure.machine import Usage, commit  # noqa: E402
from measure.parts import drain, emit, sustain, tax  # noqa: E402
from measure.report import Report, Table  # noqa: E402
from measure.results import Results  # noqa: E402
from measure.servers import parse_pgbench  # noqa: E402
from support.waiting import wait_for  # noqa: E402

COUNT, SIZE, KEYS = 60, 40, 10
ID = "id=01a1fd2f-d6ea-7b12-a59f-9a1861c346b7"
FOUR = [f"{name}={value}" for name, value in messages.USER_HEADERS.items()]


@pytest.fixture(scope="module")
def consumer(tmp_path_factory):
    """The program that judges; here it reads lines instead of a topic."""
    program = tmp_path_factory.mktemp("bench") / "consumer"
    subprocess.run(["cc", "-O1", "-o", program, BENCH / "load/consumer.c", "-lrdkafka"], check=True)
    return program


def message(number, partition=None, key=None, value=None, headers=(ID,)):
    """A line: what was sent, but for what is given."""
    key = str(number % KEYS) if key is None else key
    value = f"{number} ".ljust(SIZE, "x") if value is None else value
    return "\t".join([str(number % KEYS % 3 if partition is None else partition), key, value, *headers])


def sent(count=COUNT, **changes):
    return [message(number, **changes) for number in range(1, count + 1)]


def judged(consumer, lines, count=COUNT, size=SIZE, keys=KEYS, headers=0, capacity=0, duplicates=0):
    expected = Expected(count, size, keys, headers, duplicates, capacity)
    out = subprocess.run(
        [consumer, "--forged", *expected.options()],
        input="".join(f"{line}\n" for line in lines), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return books.judge(json.loads(out), expected)


def moved(lines, number, behind):
    """The message that is `number`th comes behind the one that is `behind`th."""
    return [*lines[: number - 1], *lines[number:behind], lines[number - 1], *lines[behind:]]


# -- the judge ----------------------------------------------------------------------------------------------


def test_what_came_as_it_was_sent_is_right(consumer):
    verdict = judged(consumer, sent())
    assert verdict.ok and verdict.check() is verdict
    assert (verdict.count, verdict.lost, verdict.duplicates, verdict.disorder, verdict.changed) == (COUNT, 0, 0, 0, 0)


def test_other_keys_may_overtake(consumer):
    assert judged(consumer, moved(sent(), 5, 14)).ok


def test_the_four_headers_are_right_in_their_order(consumer):
    assert judged(consumer, sent(headers=(ID, *FOUR)), headers=4).ok


def test_contents_of_any_kind_are_right_where_nothing_is_expected_of_them(consumer):
    lines = [message(number, key=f"k{number % 7}", partition=number % 7, value=f"{number} {'y' * (number % 5)}")
             for number in range(1, COUNT + 1)]  # fmt: skip
    assert judged(consumer, lines, size=0, keys=0, headers=-1).ok


DAMAGES = {
    "one is lost": (lambda s: s[:20] + s[21:], "1 lost"),
    "the last is lost": (lambda s: s[:-1], "1 lost"),
    "all are lost": (lambda _: [], "60 lost"),
    "one comes twice": (lambda s: [*s, s[30]], "1 duplicates"),
    "one comes twice at once": (lambda s: [*s[:30], s[29], *s[30:]], "1 duplicates"),
    "one is behind a later one of its key": (lambda s: moved(s, 5, 15), "1 out of order"),
    "all come backwards": (lambda s: s[::-1], "50 out of order"),
    "one comes in another partition than the others of its key": (lambda s: [*s[:19], message(20, partition=2), *s[20:]], "2 out of order"),
    "a byte in the middle": (lambda s: [*s[:7], s[7].replace("xxxx", "xxyx", 1), *s[8:]], "1 with other"),
    "the last byte": (lambda s: [*s[:7], message(8, value="8 ".ljust(SIZE - 1, "x") + "z"), *s[8:]], "1 with other"),
    "a byte is missing": (lambda s: [*s[:7], message(8, value="8 ".ljust(SIZE - 1, "x")), *s[8:]], "1 with other"),
    "a byte more": (lambda s: [*s[:7], message(8, value="8 ".ljust(SIZE + 1, "x")), *s[8:]], "1 with other"),
    "nothing in it": (lambda s: [*s[:7], message(8, value=""), *s[8:]], "1 lost, 1 with other"),
    "another one's number": (lambda s: [*s[:7], message(9, key="8"), *s[8:]], "1 lost, 1 duplicates"),
    "a number that was never sent": (lambda s: [*s, message(COUNT + 1)], "1 with other"),
    "number 0": (lambda s: [*s, message(0)], "1 with other"),
    "no number": (lambda s: [*s, message(3, value="x" * SIZE)], "1 with other"),
    "another key": (lambda s: [*s[:7], message(8, key="81"), *s[8:]], "1 with other"),
    "no key": (lambda s: [*s[:7], message(8, key=""), *s[8:]], "1 with other"),
    "no id": (lambda s: [*s[:7], message(8, headers=()), *s[8:]], "1 with other"),
    "an id that is none": (lambda s: [*s[:7], message(8, headers=("id=1",)), *s[8:]], "1 with other"),
    "a header too many": (lambda s: [*s[:7], message(8, headers=(ID, "type=x")), *s[8:]], "1 with other"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_named(consumer, damage):
    spoil, reason = DAMAGES[damage]
    verdict = judged(consumer, spoil(sent()))
    assert not verdict.ok
    assert reason in verdict.reason
    with pytest.raises(books.Failed, match=reason):
        verdict.check()


@pytest.mark.parametrize(
    "headers",
    [
        (ID,),
        (ID, *FOUR[:3]),
        (ID, *FOUR, FOUR[0]),
        (ID, *reversed(FOUR)),
        (*FOUR, ID),
        (ID, *FOUR[:3], "tenant=southwind"),
    ],
)
def test_headers_that_differ_are_noticed(consumer, headers):
    lines = sent(headers=(ID, *FOUR))
    lines[7] = message(8, headers=headers)
    assert "1 with other contents" in judged(consumer, lines, headers=4).reason


def test_a_number_beyond_the_count_is_noticed_though_there_is_room_for_it(consumer):
    assert "1 with other contents" in judged(consumer, sent(COUNT + 1), capacity=COUNT + 50).reason


def test_order_is_kept_for_more_keys_than_the_table_begins_with(consumer):
    lines = [message(number, key=str(number % 40_000), partition=0) for number in range(1, 80_001)]
    assert judged(consumer, lines, count=80_000, keys=40_000).ok
    lines[0], lines[40_000] = lines[40_000], lines[0]
    assert "1 out of order" in judged(consumer, lines, count=80_000, keys=40_000).reason


def test_duplicates_are_right_only_as_far_as_they_are_allowed(consumer):
    lines = [*sent(), *sent()[40:50]]
    assert judged(consumer, lines, duplicates=10).ok
    assert "10 duplicates" in judged(consumer, lines, duplicates=9).reason


def found(**changes):
    """What the consumer prints when all is well."""
    good = {"counted": True, "count": 5, "messages": 5, "distinct": 5, "lost": 0, "duplicates": 0, "disorder": 0, "scattered": 0,
            "changed": 0, "strange": 0, "first_ns": 1, "last_ns": 2, "first_appended_ms": 1, "last_appended_ms": 2, "complaint": ""}  # fmt: skip
    return good | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"counted": False}, {"count": 4, "distinct": 4}, {"count": 0, "distinct": 0}, {"lost": 1, "distinct": 4}, {"distinct": 4},
        {"duplicates": 1}, {"disorder": 1}, {"scattered": 1}, {"changed": 1}, {"strange": 1},
    ],
)  # fmt: skip
def test_each_count_that_is_wrong_makes_the_verdict_wrong(changes):
    assert books.judge(found(), Expected(5)).ok
    assert not books.judge(found(**changes), Expected(5)).ok


# -- records ------------------------------------------------------------------------------------------------


def test_a_run_goes_on_where_it_was_killed(tmp_path):
    first = Results(tmp_path, {"cores": 2})
    first.record("p", "r", "a", 1, {"rate": 10})
    first.record("p", "r", "b", 1, {}, ok=False, reason="1 lost")
    with first.path("p").open("a") as file:
        file.write('{"row": "r", "system": "c", "rou')

    again = Results(tmp_path, {"cores": 2}, resume=True)
    assert again.done("p", "r", "a", 1)
    assert not again.done("p", "r", "b", 1), "what failed is measured again"
    assert not again.done("p", "r", "c", 1) and not again.done("p", "r", "a", 2)
    again.record("p", "r", "b", 1, {"rate": 20})
    again.record("p", "r", "c", 1, {"rate": 30})
    assert [(one["system"], one["ok"], one["figures"]) for one in again.load("p")] == [
        ("a", True, {"rate": 10}), ("b", True, {"rate": 20}), ("c", True, {"rate": 30}),
    ]  # fmt: skip
    assert again.described("p") == {"cores": 2}

    anew = Results(tmp_path)
    anew.begin("p")
    assert anew.load("p") == [] and not anew.done("p", "r", "a", 1)


# -- reports ------------------------------------------------------------------------------------------------


def record(row, system, number, rate, ok=True, reason=None, **figures):
    return {
        "row": row,
        "system": system,
        "round": number,
        "ok": ok,
        "reason": reason,
        "figures": {"rate": rate, **figures},
    }


def test_a_system_that_failed_once_in_a_row_has_no_number_there():
    records = [
        record("r", "a", 1, 100),
        record("r", "a", 2, 900, ok=False, reason="3 lost"),
        record("r", "b", 1, 50),
        record("r", "b", 2, 50),
    ]
    assert report.values(records, "r", "a", "rate") == []
    assert report.cell(records, "r", "a", "rate") == "no number: 3 lost"
    assert report.ratio_cell(records, "r", "a", "b", "rate") == report.NOTHING
    assert report.cell(records, "r", "b", "rate") == "50 (50–50)"
    assert report.failures(records) == ["r, a, round 2: 3 lost"]


def test_ratios_are_taken_round_by_round():
    records = [
        record("r", "a", 1, 100),
        record("r", "b", 1, 50),
        record("r", "a", 2, 30),
        record("r", "b", 2, 10),
        record("r", "a", 3, 7),
    ]
    assert report.ratios(records, "r", "a", "b", "rate") == [2, 3]
    assert report.spread([2, 3], 1) == "2.5 (2.0–3.0)"


def test_a_table_is_markdown():
    assert (
        Table("T", ["a", "b"], [["x", "1"], ["y|z", "2"]]).markdown()
        == "**T**\n\n| a | b |\n|---|---:|\n| x | 1 |\n| y\\|z | 2 |\n"
    )
    assert Report().tables == []


def drain_record(system, rate, ok=True, **cpu):
    figures = (
        {"seconds": 1_000_000 / rate}
        | {f"cpu_{name}": used for name, used in cpu.items()}
        | {f"peak_{name}": 1 << 20 for name in cpu}
    )
    return record("200 B", system, 1, rate, ok, None if ok else "7 duplicates", **figures)


def test_the_report_of_the_drain_shows_rates_ratios_and_costs():
    records = [
        drain_record("outbox", 400_000, relay=1.0, sink=2.0, broker=3.0), drain_record("librdkafka alone", 500_000, producer=2.0, broker=3.0),
        drain_record("Debezium tuned", 40_000, jvm=50.0, walsender=10.0, broker=4.0),
    ]  # fmt: skip
    rates, costs = drain.report(records).tables
    assert rates.rows == [["200 B", "500,000", "400,000", "0.80", "40,000", "10.0"]]
    assert costs.rows[0][:3] == ["200 B", "outbox", "3.00"]
    assert costs.rows[1][:5] == ["200 B", "Debezium tuned", "60.00", "jvm 50.0, walsender 10.0", "0.050"]


def test_the_report_of_a_drain_that_failed_shows_why_and_no_ratio():
    records = [
        drain_record("outbox", 400_000, False, relay=1.0, sink=2.0),
        drain_record("librdkafka alone", 500_000, producer=2.0),
    ]
    assert drain.report(records).tables[0].rows == [["200 B", "500,000", "no number: 7 duplicates", report.NOTHING]]


# -- what sustained means -----------------------------------------------------------------------------------

STEADY = [(at / 5, 300 + 40 * (at % 3)) for at in range(30)]


def test_a_rate_holds_when_the_load_is_in_time_and_the_lag_stays():
    assert sustain.why_not(1000, 3.0, STEADY) is None


@pytest.mark.parametrize(
    "behind, lags, reason",
    [
        (150.0, STEADY, "the server does not commit more"),
        (3.0, [(at, lag + 50 * at) for at, lag in STEADY], "the lag grows"),
        (3.0, [(at, lag + 1000) for at, lag in STEADY], "the lag is long"),
        (3.0, STEADY[:3], "too little was seen of it"),
    ],
)
def test_a_rate_that_does_not_hold_is_refused(behind, lags, reason):
    assert sustain.why_not(1000, behind, lags) == reason


@pytest.mark.parametrize("limit", [10, 777, 1000, 1234, 5000])
@pytest.mark.parametrize("guess", [300, 1000, 2000])
def test_the_search_finds_the_limit_from_either_side(limit, guess):
    low, high = sustain.search(lambda rate: rate <= limit, guess, most=30)
    assert low <= limit < high and high / low <= sustain.PRECISION


def test_the_search_finds_nothing_where_nothing_holds():
    assert sustain.search(lambda _: False, 1000)[0] is None


# -- emit, and what it takes from transactions --------------------------------------------------------------


def pass_of(system, number, cpu, wal, ok=True):
    figures = {"cpu_us": cpu, "wall_us": cpu, "wal_bytes": wal, "disk_bytes": 300.0}
    figures |= {"first": {"wal_bytes": 2 * wal}, "wal": {"Heap/INSERT": [1.0, wal, 0.0]}}
    name = "200 B, 100 a transaction"
    return record(name, system, number, 0, ok, None if ok else "3 of 4 messages are stored", **figures)


def test_a_message_costs_what_the_loop_does_not():
    records = [
        *(pass_of("empty", 1, 1.0, 40), pass_of("emit", 1, 3.0, 340), pass_of("insert", 1, 5.0, 440)),
        *(pass_of("empty", 2, 2.0, 40), pass_of("emit", 2, 5.0, 340), pass_of("insert", 2, 5.0, 440)),
    ]
    assert emit.net(records, "200 B, 100 a transaction", "emit", "cpu_us") == {1: 2.0, 2: 3.0}
    assert emit.net_ratios(records, "200 B, 100 a transaction", "insert", "cpu_us") == [0.5, 1.0]
    targets, cpu, *_ = emit.report(records).tables
    assert [row[2:] for row in targets.rows] == [
        ["≤ 0.9", "0.75 (0.50–1.00)", "met"],
        ["≤ 0.85", "0.75 (0.75–0.75)", "met"],
    ]
    assert cpu.rows[0][1:3] == ["2.50 (2.00–3.00)", "3.50 (3.00–4.00)"]


def test_messages_that_are_not_stored_have_no_cost():
    records = [pass_of("empty", 1, 1.0, 40), pass_of("emit", 1, 2.0, 40, ok=False), pass_of("insert", 1, 5.0, 440)]
    targets, cpu, *_ = emit.report(records).tables
    assert targets.rows == []
    assert cpu.rows[0][1] == "no number"


def test_a_transaction_of_the_tax_has_four_round_trips_whatever_stands_in_it():
    for row in tax.ROWS:
        for name in row.systems:
            sql = tax.script(row, tax.BY_NAME[name], "t")
            pipelines = sql.count("\\startpipeline")
            inside = sum(part.split("\\endpipeline")[0].count(";\n") for part in sql.split("\\startpipeline")[1:])
            assert sql.count(";\n") - inside + pipelines == row.statements, sql


def test_the_tax_is_a_ratio_of_rates_round_by_round():
    row = tax.ROWS[0].name
    records = [
        record(row, system, number, 0, tps=tps, latency_ms=1.0, backends_us=10.0, relay_us=2.0, broker_us=3.0, wal_bytes=1.0)
        for number, rates in enumerate(({"select": 1000.0, "emit": 900.0}, {"select": 500.0, "emit": 400.0}), 1)
        for system, tps in rates.items()
    ]
    targets, table = tax.report(records).tables
    assert targets.rows == [[row, "emit, relay and Kafka on / SELECT 1", "≥ 0.85", "0.85 (0.80–0.90)", "met"]]
    assert table.rows[1][2] == "0.85 (0.80–0.90)"
    assert table.rows[1][5] == "5 (5–5)"


# -- figures ------------------------------------------------------------------------------------------------


def test_pgbench_is_understood():
    out = (
        "number of transactions actually processed: 4711\nnumber of failed transactions: 2 (0.042%)\n"
        "latency average = 1.250 ms\ninitial connection time = 3.1 ms\ntps = 3768.400000 (without initial connection time)\n"
    )
    assert parse_pgbench(out) == {
        "tps": 3768.4, "latency_ms": 1.25, "behind_ms": None, "transactions": 4711, "failed": 2, "late": 0,
    }  # fmt: skip
    assert parse_pgbench(f"{out}rate limit schedule lag: avg 12.5 (max 99.1) ms\n")["behind_ms"] == 12.5


def test_what_is_measured_is_named_by_its_commit(tmp_path):
    """And whether the tree is what was committed; the records that are being written do not count."""

    def git(*words):
        identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        return subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True).stdout.strip()

    source, record = tmp_path / "source", tmp_path / "docs/benchmarks/drain.jsonl"
    record.parent.mkdir(parents=True)
    for file in (source, record):
        file.write_text("before")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    record.write_text("after")
    assert commit(tmp_path) == git("rev-parse", "--short", "HEAD")
    source.write_text("after")
    assert commit(tmp_path) == git("rev-parse", "--short", "HEAD") + "-dirty"


def test_the_cpu_of_a_process_that_has_ended_is_counted():
    # The kernel counts whole ticks of a hundredth of a second, of the program's own and of its calls apart.
    burn = "import sys, time\nwhile time.process_time() < 0.45: pass\nsys.stdin.read()"
    running = []
    with Usage(burner=lambda: [process.pid for process in running]) as usage:
        running.append(subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE))
        wait_for(lambda: sum(usage._last["burner"].values()) >= 0.4, "a look at what it has used")
        running[0].communicate(timeout=60)
    assert usage.cpu["burner"] >= 0.4
    assert usage.peak["burner"] > 1 << 20
