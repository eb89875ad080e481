"""Tables and plots from raw records. What a part's report() needs; pure functions, but for write()."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path

NOTHING = "–"


@dataclass
class Table:
    title: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self):
        lines = [f"**{self.title}**", "", "| " + " | ".join(self.columns) + " |"]
        lines.append("|" + "|".join(["---"] + ["---:"] * (len(self.columns) - 1)) + "|")
        lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"


@dataclass
class Plot:
    """kind "bars": series are {system: {group: (median, lowest, highest)}}. kind "lines": {system: ([x …], [y …])}; "percentiles": the
    same, with x = 1 / (1 - percentile / 100)."""

    name: str  # of the file, without its end
    title: str
    series: dict
    x: str = ""
    y: str = ""
    kind: str = "bars"
    log_x: bool = False
    log_y: bool = False


@dataclass
class Report:
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# -- figures from records -----------------------------------------------------------------------------------


def select(records, **wanted):
    return [one for one in records if all(one[name] == value for name, value in wanted.items())]


def good(records, row, system):
    """Those with a number. A system that ever failed in a row has none: the failure may be what made it fast."""
    of = select(records, row=row, system=system)
    return of if of and all(one["ok"] for one in of) else []


def values(records, row, system, figure):
    """One for each round; `figure` is a name or a function of the figures."""
    get = figure if callable(figure) else (lambda figures: figures.get(figure))
    return [value for one in good(records, row, system) if (value := get(one["figures"])) is not None]


def ratios(records, row, system, beside, figure):
    """Round by round: what compares is measured side by side. A round that one of the two lacks has none."""
    get = figure if callable(figure) else (lambda figures: figures.get(figure))
    below = {one["round"]: get(one["figures"]) for one in good(records, row, beside)}
    found = []
    for one in good(records, row, system):
        above, base = get(one["figures"]), below.get(one["round"])
        if above is not None and base:
            found.append(above / base)
    return found


def failures(records):
    """One line for each measurement that has no number."""
    return [f"{one['row']}, {one['system']}, round {one['round']}: {one['reason']}" for one in records if not one["ok"]]


def spread(numbers, digits=0, unit=""):
    """median (lowest–highest); one number stands alone."""
    if not numbers:
        return NOTHING
    middle = f"{statistics.median(numbers):,.{digits}f}{unit}"
    if len(numbers) == 1:
        return middle
    return f"{middle} ({min(numbers):,.{digits}f}–{max(numbers):,.{digits}f})"


def cell(records, row, system, figure, digits=0, unit=""):
    """A cell of a table: a spread, or why there is none."""
    of = select(records, row=row, system=system)
    broken = [one for one in of if not one["ok"]]
    if broken:
        return f"no number: {broken[0]['reason']}"
    return spread(values(records, row, system, figure), digits, unit)


def ratio_cell(records, row, system, beside, figure, digits=2):
    return spread(ratios(records, row, system, beside, figure), digits)


def bar(numbers):
    """For a Plot of bars; None where there is no number."""
    return (statistics.median(numbers), min(numbers), max(numbers)) if numbers else None


def in_order(records, name):
    """The rows, or systems, in the order in which they were measured."""
    return list(dict.fromkeys(one[name] for one in records))


# -- files --------------------------------------------------------------------------------------------------


def write(report, part, title, records, machine, folder):
    """<part>.md and the plots; returns what stands in the former."""
    folder = Path(folder)
    lines = [f"# {title}", "", describe(machine, records), ""]
    for table in report.tables:
        lines += [table.markdown()]
    for note in report.notes:
        lines += [note, ""]
    failed = failures(records)
    if failed:
        lines += ["Without a number:", "", *[f"- {line}" for line in failed], ""]
    for plot in report.plots:
        draw(plot, folder / f"{plot.name}.svg")
        lines += [f"![{plot.title}]({plot.name}.svg)", ""]
    text = "\n".join(lines)
    (folder / f"{part}.md").write_text(text)
    return text


def describe(machine, records):
    rounds = len({one["round"] for one in records})
    words = [
        f"{machine.get('cores')} cores ({machine.get('cpu')})",
        f"{machine.get('memory_gib')} GiB",
        f"{machine.get('system')}",
    ]
    words += [f"{machine.get('postgres')}", f"Kafka {machine.get('kafka')}", f"Debezium {machine.get('debezium')}"]
    words += [f"librdkafka {machine.get('librdkafka')}", f"outbox {machine.get('outbox')}"]
    measured = f"{rounds} rounds, the systems in turn; median (lowest–highest)" if rounds != 1 else "One round"
    return f"{measured}. {', '.join(words)}."


COLOURS = ["#1b6ca8", "#e07a1f", "#9aa0a6", "#3a9d5d", "#b23a48", "#7b5ea7", "#c9a227"]


def draw(plot, path):
    import matplotlib  # not where the tests run

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "outbox", "font.size": 10, "svg.fonttype": "none"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.2), layout="constrained")
    if plot.kind == "bars":
        _bars(axes, plot)
    else:
        for number, (name, (x, y)) in enumerate(plot.series.items()):
            axes.plot(
                x,
                y,
                label=name,
                color=COLOURS[number % len(COLOURS)],
                linewidth=1.6,
                marker="." if len(x) < 40 else None,
            )
    axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
    if plot.log_y:
        axes.set_yscale("log")
    if plot.log_x:
        axes.set_xscale("log")
    if plot.kind == "percentiles":
        _percentiles(axes, plot)
    if plot.kind != "bars" and not plot.log_y:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _percentiles(axes, plot):
    """As HdrHistogram's own plots have it: each step to the right is ten times rarer."""
    axes.set_xscale("log")
    last = max((x[-1] for x, _ in plot.series.values()), default=10)
    ticks = [10**power for power in range(7) if 10**power <= last * 1.01]
    axes.set_xticks(ticks, [f"{100 * (1 - 1 / tick):.{max(0, len(str(tick)) - 3)}f} %" for tick in ticks])
    axes.minorticks_off()


def _bars(axes, plot):
    groups = list(dict.fromkeys(group for bars in plot.series.values() for group in bars))
    width = 0.8 / max(len(plot.series), 1)
    for number, (name, bars) in enumerate(plot.series.items()):
        there = [(at, bars[group]) for at, group in enumerate(groups) if bars.get(group)]
        if not there:
            continue
        x = [at + (number - (len(plot.series) - 1) / 2) * width for at, _ in there]
        middle = [one[0] for _, one in there]
        errors = [[one[0] - one[1] for _, one in there], [one[2] - one[0] for _, one in there]]
        axes.bar(
            x,
            middle,
            width * 0.92,
            yerr=errors,
            label=name,
            color=COLOURS[number % len(COLOURS)],
            error_kw={"linewidth": 0.8},
        )
    axes.set_xticks(range(len(groups)), [group.replace(", ", ",\n", 1) for group in groups], fontsize=8)
