"""What was measured, and the medians, spreads and ratios that are read from it. Pure.

A result is one run of one case: `{"scenario", "labels", "server", "round", "figures"}` or, where it failed, `"error"`
instead of `"figures"`. Labels say what the servers of a group have in common, such as `{"sockets": 1000, "burst": 1}`.
"""
import statistics

FLOOR = "floor"


class Results:
    """The results of one scenario."""

    def __init__(self, results):
        self.all = list(results)

    def groups(self):
        """Labels, each once, in the order in which they were measured."""
        seen = []
        for result in self.all:
            if result["labels"] not in seen:
                seen.append(result["labels"])
        return seen

    def servers(self, labels):
        """Who was measured in this group, in a fixed order whatever the order of the runs."""
        names = dict.fromkeys(result["server"] for result in self.of_round(labels, 0))
        return sorted(names, key=place)

    def of_round(self, labels, round):
        return [result for result in self.all if result["labels"] == labels and result["round"] == round]

    def of(self, labels, server):
        return [result for result in self.all if result["labels"] == labels and result["server"] == server]

    def runs(self, labels, server, key):
        """`{round: figure}` of the runs that have it."""
        found = {}
        for result in self.of(labels, server):
            value = result.get("figures", {}).get(key)
            if value is not None:
                found[result["round"]] = value
        return found

    def median(self, labels, server, key):
        return median(self.runs(labels, server, key).values())

    def ratios(self, labels, server, key, base=FLOOR, base_labels=None):
        """A server's figure as a multiple of the base's in the same round."""
        below = self.runs(base_labels or labels, base, key)
        above = self.runs(labels, server, key)
        return [above[round] / below[round] for round in sorted(above.keys() & below.keys()) if below[round]]

    def ratio(self, labels, server, key, base=FLOOR, base_labels=None):
        return median(self.ratios(labels, server, key, base, base_labels))

    def failed(self, labels, server):
        """What the first run that failed had to say, if no run succeeded."""
        runs = self.of(labels, server)
        if any("figures" in run for run in runs):
            return None
        return next((run["error"] for run in runs if "error" in run), None)

    def where(self, **wanted):
        """The groups whose labels have these values."""
        return [labels for labels in self.groups() if all(labels.get(key) == value for key, value in wanted.items())]


ORDER = [FLOOR, "fanfare", "before", "nats", "nchan", "mosquitto", "socket.io", "centrifugo", "sockudo"]


def place(server):
    """A server's kinds, such as `fanfare (memory:)`, stand where the server stands."""
    name = server.split(" (")[0].split(",")[0]
    return ORDER.index(name) if name in ORDER else len(ORDER)


def median(values):
    values = list(values)
    return statistics.median(values) if values else None


def rotated(items, by):
    """The same items, beginning with another one: whoever comes first in one round comes later in the next."""
    if not items:
        return []
    by %= len(items)
    return items[by:] + items[:by]


def number(value, digits=2):
    """For people: `–` for what there is not, thousands with commas, large figures without decimals."""
    if value is None:
        return "–"
    if abs(value) >= 1_000_000:
        return f"{value / 1_000_000:,.2f} M"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{digits}f}"


def spread(values, digits=2):
    values = list(values)
    return f"{number(min(values), digits)}–{number(max(values), digits)}" if len(values) > 1 else "–"
