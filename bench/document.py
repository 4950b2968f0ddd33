"""Puts what was measured between the markers of docs/benchmarks.md. Pure but for `write`."""
import re

from servers import ROOT

PAGE = ROOT / "docs/benchmarks.md"
CHARTS = ROOT / "docs/benchmarks"


class NoPlace(Exception):
    """The page has no markers for this."""


def placed(page, name, text):
    """The page with `text` between `<!-- begin NAME -->` and the next `<!-- end -->`, instead of what was there."""
    begin = f"<!-- begin {name} -->"
    pattern = re.compile(re.escape(begin) + r".*?<!-- end -->", re.DOTALL)
    if not pattern.search(page):
        raise NoPlace(f"{PAGE.name} has no {begin} with <!-- end --> behind it")
    return pattern.sub(lambda _: f"{begin}\n{text.strip()}\n<!-- end -->", page, count=1)


def section(scenario, results, charts, seconds):
    """What stands in the page for a scenario: what it is, its charts, its table, and how long it took."""
    images = [f"![{chart.title}](benchmarks/{file})" for file, chart in charts]
    took = f"Measured in {seconds / 60:.1f} minutes." if seconds else ""
    return "\n\n".join(filter(None, [scenario.about, *images, scenario.render(results), took]))


def write(sections, charts):
    """Sections by name into the page, charts by file name beside it."""
    page = PAGE.read_text()
    for name, text in sections.items():
        page = placed(page, name, text)
    PAGE.write_text(page)
    CHARTS.mkdir(exist_ok=True)
    for file, svg in charts.items():
        (CHARTS / file).write_text(svg)
