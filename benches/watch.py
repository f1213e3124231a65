#!/usr/bin/env python3
"""Failovers without a person: the two hosts in examples/two-hosts and two that only watch, under a customer who orders all the time.

    sudo benches/watch.py [--rounds 20] [--at-once 4] [--kind KIND …] [--work DIR] [--understudy PROGRAM]

Each round has machines of its own, --at-once of them at the same time: most of the time is waiting. In each, something of the
primary ends for good: its shop (`application`, whose start fails from then on), its server of MariaDB (`database`, whose data
is gone), its network (`network`, with what runs on it going on) or the whole host (`host`). *Closed for* is the longest time
between two orders that were acknowledged, as the customer saw it, who orders every 25 ms. Counts orders that were acknowledged
and are missing; of files, what is newer than the last snapshot of a dead host is listed as stranded once it is back. Prints a
table in Markdown. The repository is a server of S3 on a machine of its own (`tests/tools.sh` installs it)."""
import argparse, statistics, subprocess, sys, time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples/two-hosts"))
import customer
from lab import CUTS, STORE, Lab, Trouble, wait_until

S3_SERVER = ROOT / "target/test-tools/venv/bin/moto_server"
KINDS = ["application", "database", "network", "host"]
# Seconds before the end from which acknowledgements are looked at, and those that a failover may take.
BEFORE, PATIENCE = 1, 120
PROBE = """
[[store.probe]]
kind = "http"
url = "http://127.0.0.1:8081/"
"""


def end_application(lab, primary):
    script = primary.dir / "shop.py"
    broken = "import sys\nif sys.argv[1] == 'start': sys.exit('the disk is broken')\nimport json"
    script.write_text(script.read_text().replace("import json", broken, 1))
    primary.call("kill", "-KILL", (primary.dir / "shop.pid").read_text().strip())


def end_database(lab, primary):
    (primary.dir / "database").rename(primary.dir / "database.gone")
    primary.call("kill", "-KILL", (primary.dir / "supervisor/pid").read_text().strip())


def end_network(lab, primary):
    lab.unplug(primary)


def end_host(lab, primary):
    lab.power_off(primary)


ENDS = {"application": end_application, "database": end_database, "network": end_network, "host": end_host}


def is_watched(host):
    """Whether this host watches, and finds the primary well; a standby must be ready to take over as well."""
    state = host.failover() or {}
    is_well = (state.get("watch") or {}).get("verdict") == "healthy"
    return is_well and all(item["level"] != "red" for item in state.get("ready", []))


def measure(kind, options, _round):
    """One round: how long it was closed, and the number of acknowledged rows that are missing."""
    has_database = kind == "database"
    with Lab(options.understudy, options.work, S3_SERVER, has_database, watchers=2) as lab:
        lab.start()
        lab.filter("-f", "-", input=CUTS)
        lab.found()
        lab.leave_to_watchers(PROBE)
        lab.start_daemons()
        for host in (lab.web[1], *lab.watchers):
            wait_until(f"{host.name} watches", lambda: is_watched(host))
        if has_database:
            wait_until("web-2 acknowledges", lambda: "web-2" in (lab.web[0].failover() or {}).get("synced", []))
        lab.start_customer(every=0.1)
        lab.wait_for_orders(40)
        since = time.monotonic() - BEFORE
        ENDS[kind](lab, lab.web[0])
        wait_until("web-2 serves", lab.web[1].serves, seconds=PATIENCE)
        lab.wait_for_orders(40)
        closed = customer.closed_for(customer.read(lab.orders), since)
        lab.stop_customer()
        return closed, len(lab.missing_rows()) if has_database else 0


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--at-once", type=int, default=4)
    options.add_argument("--kind", choices=KINDS, nargs="+", default=KINDS)
    options.add_argument("--work")
    options.add_argument("--understudy", default=ROOT / "target/release/understudy")
    options = options.parse_args()
    options.understudy = Path(options.understudy).resolve()
    print("| what ends | rounds | closed for, median s | worst s | acknowledged rows that are missing |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for kind in options.kind:
        seconds, missing = [], 0
        with ProcessPoolExecutor(options.at_once) as pool:
            for closed, lost in pool.map(partial(measure, kind, options), range(options.rounds)):
                seconds.append(closed)
                missing += lost
                print(f"{kind} {len(seconds)}: {closed:.2f} s, {lost} missing", file=sys.stderr, flush=True)
        rows = missing if kind == "database" else "no database"
        print(f"| {kind} | {len(seconds)} | {statistics.median(seconds):.1f} | {max(seconds):.1f} | {rows} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (Trouble, subprocess.CalledProcessError) as trouble:
        sys.exit(f"watch.py: {trouble}")
