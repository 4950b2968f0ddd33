"""Markdown tables of results. Pure."""
import dataclasses

from results import FLOOR, number, spread


@dataclasses.dataclass(frozen=True)
class Column:
    """One figure of a table: `key` in the results, times `scale`, with `digits` decimals and a `unit`."""

    title: str
    key: str
    unit: str = ""
    digits: int = 2
    scale: float = 1
    times_floor: bool = False  # a second and third column: × floor of the same round, and its spread
    spread: bool = False

    def titles(self):
        return [self.title] + ["spread"] * self.spread + ["× floor", "spread"] * self.times_floor

    def without_floor(self):
        return dataclasses.replace(self, times_floor=False, spread=True)

    def cells(self, results, labels, server):
        values = [value * self.scale for value in results.runs(labels, server, self.key).values()]
        middle = results.median(labels, server, self.key)
        if middle is None:
            cells = ["–"]
        else:
            cells = [" ".join(filter(None, [number(middle * self.scale, self.digits), self.unit]))]
        if self.spread:
            cells.append(spread(values, self.digits))
        if self.times_floor:
            ratios = results.ratios(labels, server, self.key)
            cells += [number(results.ratio(labels, server, self.key)), spread(ratios)]
        return cells


def table(results, columns):
    """All groups of a scenario, one row for each server. Columns that nobody has a figure for are left out."""
    columns = [column for column in columns if has(results, column)]
    if not any(FLOOR in results.servers(labels) for labels in results.groups()):
        columns = [column.without_floor() if column.times_floor else column for column in columns]
    names = list(dict.fromkeys(name for labels in results.groups() for name in labels))
    titles = [*names, "server"] + [title for column in columns for title in column.titles()]
    lines = [row(titles), row("---" for _ in titles)]
    for labels in results.groups():
        for server in results.servers(labels):
            lines.append(line(results, columns, names, labels, server, len(titles)))
    return "\n".join(lines)


def line(results, columns, names, labels, server, width):
    shown = [shown_label(labels.get(name, "")) for name in names]
    name = f"**{server}**" if server == "fanfare" else server
    failed = results.failed(labels, server)
    if failed is not None:
        return row([*shown, name, f"failed: {failed}"] + [""] * (width - len(shown) - 2))
    cells = [cell for column in columns for cell in column.cells(results, labels, server)]
    return row([*shown, name, *cells])


def has(results, column):
    return any(column.key in result.get("figures", {}) and result["figures"][column.key] is not None for result in results.all)


def shown_label(value):
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def row(cells):
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


CPU = Column("CPU per delivery", "cpu_us_per_delivery", "µs", times_floor=True)
BROKER = Column("broker's CPU", "broker_us_per_delivery", "µs", 3)
P50 = Column("p50", "latency_p50_ms", "ms", 1)
P99 = Column("p99", "latency_p99_ms", "ms", 1)
P99_FLOOR = Column("p99", "latency_p99_ms", "ms", 1, times_floor=True)
MEMORY = Column("memory per socket", "idle_bytes_per_socket", "KiB", scale=1 / 1024)
RSS = Column("RSS", "rss_mib", "MiB", 1)
