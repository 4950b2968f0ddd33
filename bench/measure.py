"""Runs cases: starts a server, loads it, ends it, and keeps what the load printed."""
import concurrent.futures
import json
import subprocess
import sys
import time

from results import rotated
from servers import LOAD_CORE, TARGET, NotListening

ATTEMPTS = 5  # to start a server, each with other ports
TIMEOUT = 240  # seconds for one command of the load


class Failed(Exception):
    """A case that has no figures; the others go on."""


def groups_of(cases):
    """Cases with the same labels, in order: they are compared with each other, and so measured close together."""
    groups = []
    for case in cases:
        for group in groups:
            if group[0].labels == case.labels:
                group.append(case)
                break
        else:
            groups.append([case])
    return groups


def run_group(scenario, group, runs, peer_runs, load=None):
    """Results of all runs of a group, each beginning with another server."""
    results = []
    for round in range(runs):
        cases = [case for case in rotated(group, round) if not case.contender.peer or round < peer_runs]
        with concurrent.futures.ThreadPoolExecutor(scenario.parallel) as pool:
            results += pool.map(lambda case: run_case(scenario, case, round, load or run_load), cases)
    return results


def run_case(scenario, case, round, load):
    result = {"scenario": scenario.name, "labels": case.labels, "server": case.name, "round": round}
    begun = time.monotonic()
    try:
        result["figures"] = figures_of(case, load)
    except Failed as failure:
        result["error"] = str(failure)
        print(f"{scenario.name} {case.labels} {case.name}: {failure}", file=sys.stderr, flush=True)
    result["seconds"] = round_to_tenths(time.monotonic() - begun)
    return result


def round_to_tenths(seconds):
    return round(seconds, 1)


def figures_of(case, load):
    running, figures = started(case), {}
    try:
        for step in case.steps:
            words = step.arguments(figures) if callable(step.arguments) else step.arguments
            if words is not None:
                command, *options = words
                told = load([command, *running.targets(), *options], running)
                figures |= {step.prefix + key: value for key, value in told.items()}
        return figures | running.told()
    finally:
        running.end()


def run_load(words, running):
    """One command of fanfare-load on the load's core; what it says as JSON."""
    command = [str(word) for word in ["taskset", "-c", LOAD_CORE, TARGET / "fanfare-load", *words]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise Failed(f"{words[0]} took more than {TIMEOUT} s") from None
    if done.returncode != 0:
        print(running.said(), file=sys.stderr)
        raise Failed(last_line(done.stderr))
    return json.loads(done.stdout)


def last_line(text):
    return next((line for line in reversed(text.strip().splitlines()) if line.strip()), "it said nothing")[:200]


def started(case):
    """A port that was free a moment ago may have been taken."""
    for _ in range(ATTEMPTS):
        try:
            return case.contender.start(case.setup)
        except NotListening as error:
            reason = error
    raise Failed(last_line(str(reason)))
