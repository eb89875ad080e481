"""Applies every mutant to a copy of the tree, builds and installs it aside, and sees whether its tests notice.

Nothing outside build/mutants and a folder in /tmp is written: the copy is installed into a copy of PostgreSQL.
One thread builds (and runs unit tests, which need the build folder), others run the slower tests.
"""

import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as xml
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build/mutants"
TREE = WORK / "tree"
LOGS = WORK / "logs"
TABLE = WORK / "table.md"
# So many at a time run tests; most of that is waiting.
TESTERS = max(1, os.cpu_count() or 1)
# A mutant may hang whatever it breaks; no test of ours takes this long.
TEST_TIMEOUT = 300
FIELDS = {"Breaks", "Promise", "Caught-by", "Expect"}


class Failure(Exception):
    """The mutant could not be tried at all."""


@dataclass
class Mutant:
    """One patch and what its header says."""

    patch: Path
    breaks: str = ""
    promise: str = ""
    caught_by: list = field(default_factory=list)
    expect: str = ""
    verdict: str = ""
    seconds: float = 0.0

    @property
    def name(self):
        return self.patch.stem


def read_mutant(path):
    mutant = Mutant(path)
    for line in path.read_text().splitlines():
        if line.startswith("diff "):
            break
        name, _, text = line.partition(": ")
        if name not in FIELDS:
            continue
        if name == "Caught-by":
            mutant.caught_by.append(text.strip())
        else:
            setattr(mutant, name.lower(), text.strip())
    assert mutant.breaks and mutant.caught_by and mutant.expect, f"{path.name} lacks a line of its header"
    return mutant


# -- the copy of the tree, and copies of PostgreSQL -----------------------------------------------------------


def run(argv, log, timeout=TEST_TIMEOUT, **options):
    """Runs a program, its output at the end of the log; returns its exit status."""
    with log.open("ab") as out:
        out.write(f"$ {' '.join(map(str, argv))}\n".encode())
        out.flush()
        try:
            return subprocess.run(
                [str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=timeout, check=False,
                **options,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            out.write(b"\n(timed out)\n")
            return -1


def synchronize():
    """Makes the copy the same as the tree, touching nothing that is: what was built stays built."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    wanted = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    for name in wanted:
        source, copy = ROOT / name, TREE / name
        if copy.exists() and copy.read_bytes() == source.read_bytes():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        shutil.copymode(source, copy)
    manifest = WORK / "manifest"
    if manifest.exists():
        for name in set(manifest.read_text().split("\0")) - wanted - {""}:
            (TREE / name).unlink(missing_ok=True)
    manifest.write_text("\0".join(sorted(wanted)))


def apply(mutant, log):
    # The copy lies inside a work tree of git's, which it is not to know of.
    environment = dict(os.environ, GIT_CEILING_DIRECTORIES=str(TREE.parent))
    if run(["git", "apply", "-C1", "--whitespace=nowarn", mutant.patch], log, cwd=TREE, env=environment) != 0:
        raise Failure("the patch does not apply: renew it")


def copy_postgres(pg_config, to, link):
    """A copy of an installed PostgreSQL, which finds its files relative to itself; returns its pg_config."""

    def ask(what):
        return Path(subprocess.run([pg_config, what], check=True, capture_output=True, text=True).stdout.strip())

    programs, library, shared, include = map(ask, ("--bindir", "--pkglibdir", "--sharedir", "--pkgincludedir"))
    prefix = Path(os.path.commonpath([programs, library, shared, include]))
    for directory in {programs, library, shared}:
        shutil.copytree(
            directory, to / directory.relative_to(prefix), symlinks=True, copy_function=os.link if link else shutil.copy2
        )
    headers = to / include.relative_to(prefix)
    headers.parent.mkdir(parents=True, exist_ok=True)
    headers.symlink_to(include.resolve())
    return to / programs.relative_to(prefix) / "pg_config"


def at_fault_points(targets):
    """Tests that need a build of their own, in the tree: they run before the next mutant is built."""
    return [t for t in targets if t.startswith("test/e2e/test_fault_points.py")]


def build(pg_config, targets, log, fault_points=False):
    jobs = f"-j{os.cpu_count() or 1}"
    # What a mutant no longer uses is nobody's fault.
    if not (TREE / "build/release/CMakeCache.txt").exists():
        run(["cmake", "--preset", "release", "-DOUTBOX_WERROR=OFF"], log, cwd=TREE)
    if run(["make", jobs, "with_llvm=no", "WERROR=", f"PG_CONFIG={pg_config}"], log, timeout=1800, cwd=TREE) != 0:
        raise Failure("it does not build")
    if targets and run(["cmake", "--build", "build/release", "--target", *targets], log, timeout=1800, cwd=TREE) != 0:
        raise Failure("its unit tests do not build")
    make = ["make", jobs, "fault-points", "with_llvm=no", "WERROR=", f"PG_CONFIG={pg_config}"]
    if fault_points and run(make, log, timeout=1800, cwd=TREE) != 0:
        raise Failure("it does not build with fault points")


def install(base, home, log):
    """Into a PostgreSQL of its own; the files that are not replaced are the base's."""
    pg_config = copy_postgres(base, home, link=True)
    if run(["make", "install", "with_llvm=no", "WERROR=", f"PG_CONFIG={pg_config}"], log, cwd=TREE) != 0:
        raise Failure("it does not install")
    return pg_config


def end_leftovers(directory, names=None):
    """A mutant may leave processes behind, which run on if nobody ends them: a sink without its relay, say."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            program = Path(os.readlink(entry / "exe").removesuffix(" (deleted)"))
            if program.is_relative_to(directory) and (not names or program.name in names):
                os.kill(int(entry.name), signal.SIGKILL)


# -- running the tests ----------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a run said: which of the targets failed, and in which words."""

    failed: set = field(default_factory=set)
    words: list = field(default_factory=list)


def run_unit(targets, log, outcome):
    """unit:program Suite.Test"""
    for target in targets:
        end_leftovers(TREE / "build/release", ("outbox-kafka", "outbox-file"))
        program, _, tests = target.removeprefix("unit:").partition(" ")
        mark = log.stat().st_size if log.exists() else 0
        status = run([TREE / f"build/release/test/{program}", f"--gtest_filter={tests or '*'}"], log, cwd=TREE)
        output = log.read_bytes()[mark:].decode(errors="replace")
        if "[  PASSED  ] 0 tests" in output and status == 0:
            raise Failure(f"there is no test {target}")
        if status != 0:
            outcome.failed.add(target)
            outcome.words += output.splitlines()


def run_e2e(targets, pg_config, directory, log, outcome):
    report = directory / "junit.xml"
    environment = dict(os.environ, PG_CONFIG=str(pg_config), OUTBOX_TEST_DIR=str(directory))
    environment["PATH"] = f"{pg_config.parent}:{environment['PATH']}"
    # Node ids with the path as pytest sees it from the tree; -c keeps pytest.ini's options.
    status = run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={report}", *targets],
        log, timeout=max(TEST_TIMEOUT, 60 * len(targets)), cwd=TREE, env=environment,
    )  # fmt: skip
    if status not in (0, 1) or not report.exists():
        raise Failure(f"pytest ended with status {status}")
    names = {re.sub(r"^.*/|\.py", "", t.split("::")[0]) + "::" + t.split("::")[1]: t for t in targets}
    seen = set()
    for case in xml.parse(report).getroot().iter("testcase"):
        module, name = case.get("classname").split(".")[-1], case.get("name")
        # A target without parameters stands for all of them.
        target = names.get(f"{module}::{name}") or names.get(f"{module}::{name.split('[')[0]}")
        seen.add(target)
        for trouble in [*case.iter("failure"), *case.iter("error")]:
            outcome.failed.add(target)
            # Not the lines of source that are quoted around the error.
            outcome.words += [line[2:].strip() for line in (trouble.text or "").splitlines() if line.startswith("E ")]
        if case.find("skipped") is not None:
            raise Failure(f"{target} was skipped")
    if len(seen) != len(targets):
        raise Failure(f"not run: {sorted(set(targets) - seen)}")


def run_sql(targets, pg_config, directory, log, outcome):
    """pg_regress, isolationtester and pgTAP, on one server."""
    environment = dict(os.environ, PG_CONFIG=str(pg_config), PGISOLATIONTIMEOUT="30")
    environment["PATH"] = f"{pg_config.parent}:{environment['PATH']}"
    server = directory / "postgres"
    started = subprocess.run(
        [TREE / "scripts/postgres", "start", "--dir", server], env=environment, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    try:
        if started.returncode != 0:
            raise Failure(f"the server does not start: {started.stderr[-200:]}")
        environment |= dict(re.findall(r"(PG[A-Z]+)=(\S+)", started.stdout))
        for number, target in enumerate(targets):
            if target.startswith("test/pgtap/"):
                run_pgtap(target, f"pgtap{number}", environment, log, outcome)
            else:
                run_installcheck(target, pg_config, directory / f"results{number}", environment, log, outcome)
    finally:
        run([TREE / "scripts/postgres", "stop", "--dir", server, "--mode", "immediate", "--remove"], log, env=environment)


def run_installcheck(target, pg_config, results, environment, log, outcome):
    results.mkdir()
    name = Path(target).stem
    chosen = [f"REGRESS={name}", "ISOLATION="] if target.startswith("sql/") else ["REGRESS=", f"ISOLATION={name}"]
    where = f"--outputdir={results} --host={environment['PGHOST']} --port={environment['PGPORT']} --user=postgres"
    status = run(
        ["make", "installcheck", f"PG_CONFIG={pg_config}", f"EXTRA_REGRESS_OPTS={where}", *chosen],
        log, cwd=TREE, env=environment,
    )  # fmt: skip
    if status == 0:
        return
    outcome.failed.add(target)
    differences = results / "regression.diffs"
    if differences.exists():
        outcome.words += [line for line in differences.read_text().splitlines() if re.match(r"[+-][^+-]", line)]


def run_pgtap(target, database, environment, log, outcome):
    run(["createdb", database], log, env=environment)
    create = ["psql", "-qXd", database, "-c", "CREATE EXTENSION pgtap", "-c", "CREATE EXTENSION outbox"]
    if run(create, log, env=environment) != 0:
        raise Failure("pgTAP or outbox cannot be created")
    mark = log.stat().st_size
    if run(["pg_prove", "-d", database, "--verbose", target], log, cwd=TREE, env=environment) != 0:
        outcome.failed.add(target)
        output = log.read_bytes()[mark:].decode(errors="replace")
        outcome.words += [line for line in output.splitlines() if line.startswith(("not ok", "#"))]


def run_targets(targets, pg_config, directory, log, outcome):
    e2e = [t for t in targets if t.startswith("test/e2e/")]
    sql = [t for t in targets if t.startswith(("sql/", "specs/", "test/pgtap/"))]
    directory.mkdir(mode=0o755)
    if e2e:
        run_e2e(e2e, pg_config, directory, log, outcome)
    if sql:
        run_sql(sql, pg_config, directory, log, outcome)


# -- mutants --------------------------------------------------------------------------------------------------


def left_to_faults(mutant):
    return all(target.startswith("faults ") for target in mutant.caught_by)


def judge(mutant, outcome):
    unnoticed = [target for target in mutant.caught_by if target not in outcome.failed]
    if unnoticed:
        return f"NOT CAUGHT by {', '.join(unnoticed)}"
    if not any(re.search(mutant.expect, line) for line in outcome.words):
        return f"NOT CAUGHT for the right reason: nothing in the output matches {mutant.expect!r}"
    return "caught"


class Trial:
    """All mutants: built one after the other, tested beside that."""

    def __init__(self, mutants, directory, base):
        self.mutants = mutants
        self.directory = directory
        self.base = base
        self.built = queue.Queue(maxsize=TESTERS)

    def unit_programs(self, targets):
        return sorted({t.removeprefix("unit:").split()[0] for t in targets if t.startswith("unit:")})

    def baseline(self, test_them):
        """The tests pass where nothing is broken; otherwise their failing would mean nothing."""
        log = LOGS / "baseline.log"
        targets = sorted({t for m in self.mutants for t in m.caught_by if not t.startswith("faults ")})
        synchronize()
        build(self.base, ["outbox-mock-broker", *self.unit_programs(targets)], log, bool(at_fault_points(targets)))
        if not test_them:
            return
        outcome = Outcome()
        run_unit([t for t in targets if t.startswith("unit:")], log, outcome)
        pg_config = install(self.base, self.directory / "pg-baseline", log)
        run_targets(targets, pg_config, self.directory / "t0", log, outcome)
        if outcome.failed:
            raise Failure(f"without any mutant these fail already: {sorted(outcome.failed)}; see {log}")
        say(f"baseline: {len(targets)} tests pass on the tree as it is")

    def build_all(self):
        for number, mutant in enumerate(self.mutants, 1):
            log = LOGS / f"{mutant.name}.log"
            began = time.monotonic()
            home = self.directory / f"pg-{number}"
            outcome = Outcome()
            try:
                synchronize()
                apply(mutant, log)
                here = at_fault_points(mutant.caught_by)
                build(self.base, self.unit_programs(mutant.caught_by), log, bool(here))
                run_unit([t for t in mutant.caught_by if t.startswith("unit:")], log, outcome)
                pg_config = install(self.base, home, log)
                if here:
                    directory = self.directory / f"f{number}"
                    directory.mkdir(mode=0o755)
                    run_e2e(here, pg_config, directory, log, outcome)
            except Failure as failure:
                self.finish(mutant, f"ERROR: {failure}", began, home)
                continue
            mutant.seconds = time.monotonic() - began
            self.built.put((number, mutant, pg_config, home, log, outcome))
        synchronize()
        for _ in range(TESTERS):
            self.built.put(None)

    def test_some(self):
        while item := self.built.get():
            number, mutant, pg_config, home, log, outcome = item
            began = time.monotonic() - mutant.seconds
            try:
                if not set(mutant.caught_by) <= outcome.failed:
                    elsewhere = [t for t in mutant.caught_by if t not in at_fault_points(mutant.caught_by)]
                    run_targets(elsewhere, pg_config, self.directory / f"t{number}", log, outcome)
                self.finish(mutant, judge(mutant, outcome), began, home)
            except Failure as failure:
                self.finish(mutant, f"ERROR: {failure}", began, home)

    def finish(self, mutant, verdict, began, home):
        mutant.verdict = verdict
        mutant.seconds = time.monotonic() - began
        end_leftovers(home)
        shutil.rmtree(home, ignore_errors=True)
        say(f"{mutant.name:32} {mutant.seconds:5.0f} s  {verdict}")

    def run(self, test_baseline):
        self.baseline(test_baseline)
        builder = threading.Thread(target=self.build_all)
        testers = [threading.Thread(target=self.test_some) for _ in range(TESTERS)]
        for thread in (builder, *testers):
            thread.start()
        for thread in (builder, *testers):
            thread.join()


def say(text):
    print(text, flush=True)


def table(mutants):
    def short(target):
        return "`" + re.sub(r"^test/e2e/", "", target) + "`"

    lines = ["| mutant | what it breaks | promise | caught by | s | verdict |", "|---|---|---|---|---|---|"]
    for m in mutants:
        tests = ", ".join(map(short, m.caught_by))
        lines.append(f"| {m.name} | {m.breaks} | {m.promise} | {tests} | {m.seconds:.0f} | {m.verdict} |")
    return "\n".join(lines) + "\n"


def main(arguments):
    names = [argument for argument in arguments if argument != "--without-baseline"]
    mutants = [read_mutant(path) for path in sorted((ROOT / "test/mutants").glob("*.patch"))]
    unknown = set(names) - {m.name for m in mutants}
    if unknown:
        sys.exit(f"no mutant {sorted(unknown)}; there are: {' '.join(m.name for m in mutants)}")
    mutants = [m for m in mutants if not names or m.name in names]
    tried = [m for m in mutants if not left_to_faults(m)]
    for mutant in set(m.name for m in mutants) - set(m.name for m in tried):
        next(m for m in mutants if m.name == mutant).verdict = "left to make faults"
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    TREE.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="outbox-mutants.", dir="/tmp"))
    directory.chmod(0o755)
    try:
        base = copy_postgres(os.environ.get("PG_CONFIG", "pg_config"), directory / "pg", link=False)
        Trial(tried, directory, base).run("--without-baseline" not in arguments)
    except Failure as failure:
        sys.exit(f"mutants: {failure}")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    TABLE.write_text(table(mutants))
    caught = sum(m.verdict == "caught" for m in mutants)
    left = len(mutants) - len(tried)
    say(f"\nas Markdown: {TABLE}; logs: {LOGS}")
    say(f"{caught} caught, {len(tried) - caught} not caught" + (f", {left} left to make faults" if left else ""))
    sys.exit(caught != len(tried))


if __name__ == "__main__":
    main(sys.argv[1:])
