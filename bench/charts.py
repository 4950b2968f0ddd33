"""SVG charts of results, for light and dark pages alike. Pure.

Figures that are a multiple of the floor grow from the floor's own line on a logarithmic scale: to the right is dearer
than the floor, to the left cheaper, and twice is as far in either direction. All other figures are bars from zero.
"""
import dataclasses
import math
from xml.sax.saxutils import escape

from results import FLOOR, median, number
from tables import shown_label

WIDTH, MARGIN, RIGHT = 760, 16, 96
BAR, ROW, HEAD, AXIS, TITLE = 14, 22, 30, 34, 34
CHARACTER = 7.8  # width of one at 13 px in a wide font, bold

STYLE = """
  :root { color-scheme: light dark }
  .page { fill: #ffffff } .title { fill: #1f2328; font-weight: 600; font-size: 15px }
  text { fill: #1f2328; font: 13px system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif }
  .panel { font-weight: 600 } .axis, .note { fill: #59636e; font-size: 12px } .own { font-weight: 600 }
  .grid { stroke: #d8dee4; stroke-width: 1 } .line { stroke: #59636e; stroke-width: 1.5 }
  .bar { fill: #9aa5b1 } .bar.node { fill: #0a6bdf } .bar.floor { fill: #59636e } .whisker { stroke: #1f2328; stroke-width: 1.2 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .title, text { fill: #e6edf3 } .axis, .note { fill: #9198a1 }
    .grid { stroke: #2a313a } .line { stroke: #9198a1 } .whisker { stroke: #e6edf3 }
    .bar { fill: #59636e } .bar.node { fill: #4a9bff } .bar.floor { fill: #9198a1 }
  }
"""


@dataclasses.dataclass(frozen=True)
class Bar:
    server: str
    value: float
    least: float
    most: float
    note: str  # behind the value, such as what it is in units


@dataclasses.dataclass(frozen=True)
class Panel:
    title: str
    bars: list


def panels(chart, results):
    """What is to be drawn: a panel for each group that has more than one bar."""
    found = []
    for labels in results.where(**chart.where):
        bars = [bar for server in results.servers(labels) if (bar := bar_of(chart, results, labels, server))]
        if len(bars) > 1:
            found.append(Panel(title_of(labels, chart.where), bars))
    return found


def bar_of(chart, results, labels, server):
    own = results.median(labels, server, chart.key)
    if own is None:
        return None
    if chart.times_floor:
        base = results.where(**{**labels, **chart.base}) if chart.base else [labels]
        values = results.ratios(labels, server, chart.key, base_labels=base[0]) if base else []
        if not values:
            return None
        note = f"{number(own * chart.scale, 1)} {chart.unit}".strip()
    else:
        values, note = [value * chart.scale for value in results.runs(labels, server, chart.key).values()], ""
    return Bar(server, median(values), min(values), max(values), note)


def title_of(labels, chosen):
    """What tells this panel from the others; what all have in common stands in the chart's title."""
    words = [f"{shown_label(value)} {name}" if isinstance(value, int) else f"{name} {value}" for name, value in labels.items() if name not in chosen]
    return ", ".join(words)


class Logarithmic:
    """From the floor's line at 1, twice as far for twice the logarithm."""

    def __init__(self, values, left, right):
        low, high = min([1, *values]) / 1.1, max([1, *values]) * 1.1
        self.low, self.left = math.log(low), left
        self.per_unit = (right - left) / (math.log(high) - self.low)
        ticks = [base * 10**power for power in range(-3, 4) for base in (1, 2, 3, 5)]
        self.ticks, self.origin = [tick for tick in ticks if low <= tick <= high], 1

    def at(self, value):
        return self.left + (math.log(value) - self.low) * self.per_unit


class Linear:
    """From zero."""

    def __init__(self, values, left, right):
        high = max(values) * 1.05
        step = 10 ** math.floor(math.log10(high))
        step = next(step * part for part in (0.1, 0.2, 0.5, 1) if high / (step * part) <= 8)
        self.left, self.per_unit, self.origin = left, (right - left) / high, 0
        self.ticks = [step * count for count in range(int(high / step) + 1)]

    def at(self, value):
        return self.left + value * self.per_unit


def svg(chart, results):
    drawn = panels(chart, results)
    bars = [bar for panel in drawn for bar in panel.bars]
    left = MARGIN + 10 + max(len(bar.server) for bar in bars) * CHARACTER
    notes = max(len(behind(bar)) for bar in bars) * CHARACTER
    values = [edge for bar in bars for edge in (bar.least, bar.most)]
    scale = (Logarithmic if chart.times_floor else Linear)(values, left, WIDTH - max(RIGHT, notes + 24))
    parts, top = [], MARGIN + TITLE
    for panel in drawn:
        first = top + (HEAD if panel.title else 10)
        bottom = first + ROW * len(panel.bars)
        parts += grid(scale, first - 4, bottom)
        parts.append(text(MARGIN, top + 18, panel.title, "panel"))
        for index, bar in enumerate(panel.bars):
            parts += drawn_bar(scale, bar, left, first + ROW * index)
        parts += labels_of(scale, chart, bottom + 16)
        top = bottom + AXIS
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top:.0f}" viewBox="0 0 {WIDTH} {top:.0f}" role="img">'
    head += f"<title>{escape(chart.title)}</title><style>{STYLE}</style>"
    head += f'<rect class="page" width="{WIDTH}" height="{top:.0f}" rx="6"/>' + text(MARGIN, MARGIN + 14, chart.title, "title")
    better = "more is better" if chart.more_is_better else "less is better"
    return "\n".join([head, text(WIDTH - MARGIN, MARGIN + 14, better, "note", "end"), *parts, "</svg>\n"])


def grid(scale, top, bottom):
    lines = []
    for tick in scale.ticks:
        kind = "line" if tick == scale.origin else "grid"
        lines.append(f'<line class="{kind}" x1="{scale.at(tick):.1f}" y1="{top}" x2="{scale.at(tick):.1f}" y2="{bottom}"/>')
    return lines


def labels_of(scale, chart, y):
    names = {1: FLOOR} if chart.times_floor else {}
    return [text(scale.at(tick), y, names.get(tick) or tick_label(tick, chart), "axis", "middle") for tick in scale.ticks]


def tick_label(tick, chart):
    return f"{tick:g} ×" if chart.times_floor else f"{tick:,g}"


def drawn_bar(scale, bar, left, y):
    begin, end = sorted([scale.at(scale.origin), scale.at(bar.value)])
    node = bar.server.startswith("fanfare")
    kind = "node" if node else "floor" if bar.server.startswith(FLOOR) else "peer"
    middle = y + ROW / 2
    parts = [text(left - 10, middle + 4.5, bar.server, "own" if node else "name", "end")]
    width = max(end - begin, 2)
    parts.append(f'<rect class="bar {kind}" x="{begin:.1f}" y="{y + (ROW - BAR) / 2:.1f}" width="{width:.1f}" height="{BAR}" rx="2"/>')
    if bar.most > bar.least:
        parts.append(f'<line class="whisker" x1="{scale.at(bar.least):.1f}" y1="{middle}" x2="{scale.at(bar.most):.1f}" y2="{middle}"/>')
    beyond = max(end, scale.at(bar.most)) + 6
    parts.append(text(beyond, middle + 4.5, behind(bar), "own" if node else "value"))
    return parts


def behind(bar):
    return f"{number(bar.value)} · {bar.note}" if bar.note else number(bar.value)


def text(x, y, words, kind, anchor="start"):
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
