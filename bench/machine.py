"""On what a run was measured."""
import os
import pathlib
import platform
import time

import targets
from servers import ROOT, TARGET, git_commit, version


def machine():
    return {
        "cpu": cpu_model(pathlib.Path("/proc/cpuinfo").read_text()),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "system": system(),
        "mitigations": mitigations(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }


def build():
    return {"commit": git_commit(), "rustc": version("rustc", "--version"), "binaries": str(TARGET), "lto": os.environ.get("CARGO_PROFILE_RELEASE_LTO", lto())}


def lto():
    """What the workspace's release profile says."""
    for line in (ROOT / "Cargo.toml").read_text().splitlines():
        if line.startswith("lto"):
            return line.split("=")[1].strip().strip('"')
    return "off"


def others(seconds=3):
    """What share of all cores other programs have, while nothing is measured. The load average would still count the run before."""
    busy, every = cpu_ticks()
    time.sleep(seconds)
    busy_then, every_then = cpu_ticks()
    return round((busy_then - busy) / max(1, every_then - every), 2)


def cpu_ticks():
    """Of all cores since the machine began: in use (by others on the host, too), and in all (proc(5), /proc/stat)."""
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, pathlib.Path("/proc/stat").read_text().split()[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait


def cpu_model(cpuinfo):
    """The model's name, or what stands for it where a hypervisor hides it."""
    fields = dict(line.split(":", 1) for line in cpuinfo.split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    return fields.get("model name") or f"family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}"


def mitigations():
    """Whether the kernel guards against faults of the CPU, which makes every system call dearer."""
    states = [file.read_text().strip() for file in pathlib.Path("/sys/devices/system/cpu/vulnerabilities").glob("*")]
    if not states:
        return "unknown"
    on = sum(state.startswith("Mitigation") for state in states)
    open_ = sum(state.startswith("Vulnerable") for state in states)
    return f"{on} on, {open_} off"


def system():
    for line in pathlib.Path("/etc/os-release").read_text().splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.split("=", 1)[1].strip('"')
    return platform.system()


def sentence(run):
    """The same for people."""
    on, by = run["machine"], run["build"]
    return (
        f"{run['begun'][:10]}: {on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB, Linux {on['kernel']}, {on['system']} (mitigations of the kernel: {on['mitigations']}); "
        f"rustc {by['rustc']}, release, link-time optimisation {by['lto']}, commit {by['commit']}. "
        f"Other programs had {run['others']['begin']:.0%} of the cores before the run, {run['others']['end']:.0%} after it. " + "; ".join(run["versions"]) + "."
        + (" Latencies and times are upper bounds, then, and compare badly." if targets.busy(run) else "")
    )

