"""Runs Autobahn's cases against an echo server and judges the result; see run.sh."""

import argparse
import asyncio
import collections
import importlib
import json
import pathlib
import subprocess
import sys
import time

import kosoku
from kosoku import _caseindex
from kosoku._report import write_reports

PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
# Their only offer is a server window smaller than 32 KiB. It is declined: a compressed frame is
# shared by all clients, so it cannot have a window of its own for one of them.
DECLINED_WINDOW = ("13.3.", "13.5.")


def judge(result):
    """Why a case failed, or None."""
    behavior, close = result.behavior.value, result.behavior_close.value
    declined = result.case_id.startswith(DECLINED_WINDOW)
    if behavior not in PASSED and not (declined and behavior == "UNIMPLEMENTED"):
        return f"{behavior}: {result.result}"
    if close not in PASSED:
        return f"close {close}: {result.result_close}"
    return None


def selection(mode):
    """Globs of the cases to run; None for all."""
    if mode == "all":
        return None
    lines = pathlib.Path(__file__).with_name("short.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def ready_address(server):
    """The address in the line that the server prints when it listens."""
    line = server.stdout.readline()
    try:
        return json.loads(line)["public"]
    except (ValueError, KeyError):
        sys.exit(f"the server did not get ready, it said {line!r}")


def accept_uncompressed_echoes():
    """Works around a fault of kosoku 0.1.0, seen in the cases with payloads that the server echoes
    uncompressed although compression was agreed (too small, or not worth it): it hands these to
    the case as a str, and the case can only hash bytes."""
    _caseindex.initialize_shims()
    cases = importlib.import_module("case12_x_x")
    for case in cases.Case12_X_X + cases.Case13_X_X:
        on_message = case.onMessage

        def on_message_of_any_type(self, message, binary, on_message=on_message):
            if isinstance(message, str):
                message = message.encode("latin-1" if binary else "utf-8")
            on_message(self, message, binary)

        case.onMessage = on_message_of_any_type


async def run(address, cases, parallelism):
    try:
        return await kosoku.run_fuzzingclient(f"ws://{address}", cases, concurrency=parallelism)
    except kosoku.FailureError as failure:
        return failure.results


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("mode", choices=["short", "all"])
    arguments.add_argument("--server", required=True, help="the ws_echo program")
    arguments.add_argument("--report", required=True, help="directory for the report")
    arguments.add_argument("--parallelism", type=int, default=2)
    arguments = arguments.parse_args()

    server = subprocess.Popen(
        [arguments.server, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    )
    started = time.monotonic()
    accept_uncompressed_echoes()
    try:
        address = ready_address(server)
        results = asyncio.run(run(address, selection(arguments.mode), arguments.parallelism))
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode} during the run")
    finally:
        server.kill()
        server.wait()
    seconds = time.monotonic() - started

    if not results:
        sys.exit("no case was run")
    write_reports(results, arguments.report)
    failures = [(result, why) for result in results if (why := judge(result))]
    for result, why in failures:
        print(f"FAILED {result.case_id} {why}", file=sys.stderr)
    counts = collections.Counter(result.behavior.value for result in results)
    behaviors = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(
        f"autobahn: {len(results) - len(failures)} passed, {len(failures)} failed"
        f" ({behaviors}) in {seconds:.0f} s; report in {arguments.report}/index.html"
    )
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
