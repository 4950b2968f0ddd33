"""What a scenario is made of."""
import dataclasses

from contender import Setup
from tables import table


@dataclasses.dataclass(frozen=True)
class Step:
    """One command of fanfare-load against the server of its case. `arguments` may be a function of the figures so far,
    which gives None where it cannot be run; figures are kept under `prefix` and their own name."""

    arguments: object
    prefix: str = ""


@dataclasses.dataclass(frozen=True)
class Case:
    """One server in one group of a scenario. `steps` run one after the other against the same process."""

    contender: object
    labels: dict
    steps: list
    setup: Setup = Setup()
    server: str = None  # as the table calls it, where it is not the contender's own name

    @property
    def name(self):
        return self.server or self.contender.name


@dataclasses.dataclass(frozen=True)
class Bars:
    """A chart: one panel of bars for each group that `where` chooses, of `key` or of its multiple of the floor."""

    title: str
    key: str
    times_floor: bool = False
    unit: str = ""
    scale: float = 1
    more_is_better: bool = False
    where: dict = dataclasses.field(default_factory=dict)
    base: dict = None  # labels of the group whose floor is the measure, where it is not the bar's own


class Scenario:
    """`cases` says what is run, `columns` and `charts` what is read from it."""

    name, title, about = None, None, None
    columns, charts = [], []
    parallel = 1  # cases of a group at one time: only where CPU and time do not count

    def cases(self, contenders, quick):
        raise NotImplementedError

    def render(self, results):
        return table(results, self.columns)


def able(contenders, setup):
    """Who can do what the setup asks for."""
    return [contender for contender in contenders if contender.can(setup)]


def ours(contenders):
    """The floor, the node, and an older build of it where one is named."""
    return [contender for contender in contenders if not contender.peer]


def load(command, /, **options):
    """A command line of fanfare-load: `load("fanout", sockets=10)` is `fanout --sockets 10`; True is a flag of its own."""
    words = [command]
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False:
            words += [f"--{name}", value]
    return words
