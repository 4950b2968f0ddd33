#!/usr/bin/env python3
"""Measures side by side, interleaved in one run: the floor, a node, and the peers that are there.

Every server runs on the first core, the load and the brokers on the second, so that a server's CPU time is its own. Each
run writes all raw figures with the machine and versions to target/bench/, and prints tables. `--render FILE` prints (and
with `--write` puts into docs/benchmarks.md) what an earlier run has measured.
"""
import argparse
import datetime
import json
import signal
import sys
import time

import charts
import document
import machine
import targets
from contender import Fanfare, Floor
from measure import groups_of, run_group
from named import Centrifugo, Sockudo
from peers import Mosquitto, Nats, Nchan, SocketIo
from results import Results
from scenarios import SCENARIOS
from servers import TARGET

QUICK = ["fanout", "channels", "saturation", "latency", "idle", "handshake", "storm"]


def main():
    arguments = parse()
    if arguments.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:12} {scenario.title}. {scenario.about}")
        return 0
    if arguments.render:
        with open(arguments.render[0]) as file:
            run = json.load(file)
        for further in arguments.render[1:]:
            with open(further) as file:
                run = joined(run, json.load(file))
        print(rendered(run))
    else:
        run = measured(arguments)
        print(targets.table(run, all_of_them=False))
    if arguments.write:
        written(run)
    return 1 if any("error" in result for result in run["results"]) else 0


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(names)}; all unless named")
    parser.add_argument("--only", nargs="+", metavar="SERVER", help="servers to measure; the floor always")
    parser.add_argument("--runs", type=int, default=3, help="interleaved runs of each server (3)")
    parser.add_argument("--peer-runs", type=int, help="runs of each peer (as many as of all others; one with --quick)")
    parser.add_argument("--quick", action="store_true", help="essential scenarios, fewer sizes, peers once")
    parser.add_argument("--against", metavar="BINARY", help="another build of the node, measured beside this one as `before`")
    parser.add_argument("--write", action="store_true", help="write tables and charts into docs/")
    parser.add_argument("--render", nargs="+", metavar="FILE", help="measure nothing; show what these runs have measured")
    parser.add_argument("--list", action="store_true", help="say what each scenario is")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - set(names):
        parser.error(f"{', '.join(unknown)}: not a scenario; there are {', '.join(names)}")
    return arguments


def measured(arguments):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # so that what was started is ended too
    contenders = chosen(arguments)
    run = {"begun": datetime.datetime.now().isoformat(timespec="seconds"), "quick": arguments.quick, "results": [], "seconds": {}}
    run |= {"machine": machine.machine(), "build": machine.build(), "others": {"begin": machine.others()}}
    try:
        present = [contender for contender in contenders if not told_missing(contender)]
        run["versions"] = [text for text in (contender.versions() for contender in present) if text]
        wanted = arguments.scenarios or (QUICK if arguments.quick else [scenario.name for scenario in SCENARIOS])
        for scenario in SCENARIOS:
            if scenario.name in wanted:
                measure_scenario(scenario, present, arguments, run)
    finally:
        for contender in contenders:
            contender.end()
        run["others"]["end"] = machine.others()
        print(f"\nAll figures: {kept(run)}")
    print(machine.sentence(run) + "\n")
    return run


def chosen(arguments):
    contenders = [Floor(), Fanfare(), Nats(), Nchan(), Mosquitto(), SocketIo(), Centrifugo(), Sockudo()]
    if arguments.against:
        contenders.insert(2, Fanfare("before", arguments.against))
    if arguments.only:
        contenders = [each for each in contenders if each.name in {"floor", "before", *arguments.only}]
    return contenders


def told_missing(contender):
    if contender.missing:
        print(f"{contender.name} is left out. To measure it: {contender.missing}")
    return contender.missing


def measure_scenario(scenario, contenders, arguments, run):
    begun = time.monotonic()
    print(f"\n## {scenario.title}\n", flush=True)
    results, seconds = [], run["seconds"]
    peer_runs = arguments.peer_runs or (1 if arguments.quick else arguments.runs)
    for group in groups_of(scenario.cases(contenders, arguments.quick)):
        found = run_group(scenario, group, arguments.runs, peer_runs)
        results += found
        run["results"] += found
        seconds[scenario.name] = round(time.monotonic() - begun)
        print(f"{scenario.name}: {group[0].labels}, {seconds[scenario.name]} s", file=sys.stderr, flush=True)
    print(f"{scenario.render(Results(results))}\n\n{scenario.title} took {seconds[scenario.name]} s", flush=True)


def kept(run):
    directory = TARGET.parent / "bench"
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{run['begun'].replace(':', '')}.json"
    file.write_text(json.dumps(run, indent=1))
    return file


def joined(run, later):
    """Two runs as one, on the machine of the later. A group of a scenario that both have is the later one's, in its place among the others."""
    groups = {}
    for each in [run, later]:
        own = {}
        for result in each["results"]:
            own.setdefault((result["scenario"], tuple(result["labels"].items())), []).append(result)
        groups |= own
    seconds = {name: run["seconds"].get(name, 0) + later["seconds"].get(name, 0) for name in run["seconds"] | later["seconds"]}
    return {**run, **later, "results": [result for results in groups.values() for result in results], "seconds": seconds}


def sections(run):
    """For each scenario that was measured: itself, its results and its charts by file name."""
    for scenario in SCENARIOS:
        results = Results(result for result in run["results"] if result["scenario"] == scenario.name)
        if results.all:
            drawn = [(f"{scenario.name}-{index}.svg", bars) for index, bars in enumerate(scenario.charts, 1)]
            yield scenario, results, [(file, bars) for file, bars in drawn if charts.panels(bars, results)]


def rendered(run):
    parts = [f"## {scenario.title}\n\n{scenario.render(results)}" for scenario, results, _ in sections(run)]
    return "\n\n".join([*parts, targets.table(run), machine.sentence(run)])


def written(run):
    texts = {"machine": machine.sentence(run), "targets": targets.table(run)}
    images = {}
    for scenario, results, drawn in sections(run):
        texts[scenario.name] = document.section(scenario, results, drawn, run["seconds"].get(scenario.name))
        images |= {file: charts.svg(bars, results) for file, bars in drawn}
    document.write(texts, images)
    print(f"Written: {document.PAGE}, and {len(images)} charts", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
