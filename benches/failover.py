#!/usr/bin/env python3
"""Switchovers and failovers of the two hosts in examples/two-hosts, under a customer who orders all the time.

    sudo benches/failover.py [--rounds 20] [--entries N] [--hints] [--work DIR] [--understudy PROGRAM]

Each switchover hands the store over to the other host. In each failover the primary loses its power, the other host is told
at once, and the dead one comes back and follows before the next round. *Closed for* is the longest time between
two orders that were acknowledged, as the customer saw it; the customer orders every 25 ms. --entries is the number of files in the
store's tree, in addition to the shop's own few; with --hints the hosts watch their trees, as under the Continuous plan. Prints a table in Markdown."""
import argparse, statistics, sys, threading, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples/two-hosts"))
import customer
from lab import STORE, Lab, Trouble, wait_until

# Seconds before a command from which acknowledgements are looked at.
BEFORE = 1


def closed_for(lab, action):
    lab.wait_for_orders(20)
    since = time.monotonic() - BEFORE
    action()
    lab.wait_for_orders(20)
    return customer.closed_for(customer.read(lab.orders), since)


def others(lab):
    """The primary and the other host."""
    primary = lab.primary()
    return primary, next(host for host in lab.web if host is not primary)


def has_followed(host):
    try:
        host.understudy("follow", STORE, "--once")
    except Trouble:
        # Its daemon is about it.
        return False
    return True


def wait_for_standby(lab, host):
    wait_until(f"{host.name} follows", host.is_standby, seconds=600)
    # One that was the primary before brings the whole tree first.
    wait_until(f"{host.name} has all", lambda: has_followed(host), seconds=600)


def switch_over(lab):
    primary, other = others(lab)
    wait_for_standby(lab, other)
    closed = closed_for(lab, lambda: primary.understudy("switchover", STORE, "--to", other.name))
    if lab.primary() is not other:
        raise Trouble(f"{other.name} does not serve")
    return closed


def fail_over(lab):
    dead, other = others(lab)
    wait_for_standby(lab, other)

    # Nobody reaches it from its first moment on; the kernel takes seconds to tear a large tree's mounts down.
    dying = threading.Thread(target=dead.kill)

    def action():
        lab.unplug(dead)
        dying.start()
        other.understudy("failover", STORE, "--yes", "--is-down", "--reason", "benchmark")

    closed = closed_for(lab, action)
    dying.join()
    lab.power_on(dead)
    dead.start_daemon()
    wait_for_standby(lab, dead)
    for record in lab.stranded(other):
        other.understudy("stranded", "drop", STORE, str(record), "--yes")
    return closed


def row(name, seconds):
    worst, median = max(seconds), statistics.median(seconds)
    return f"| {name} | {len(seconds)} | {median:.2f} | {worst:.2f} |"


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--entries", type=int, default=0)
    options.add_argument("--hints", action="store_true")
    options.add_argument("--work")
    options.add_argument("--understudy", default=ROOT / "target/release/understudy")
    options = options.parse_args()
    with Lab(Path(options.understudy).resolve(), options.work) as lab:
        lab.start()
        lab.found(options.entries)
        if options.hints:
            for host in lab.web:
                path = host.dir / "understudy.toml"
                path.write_text(path.read_text().replace("[store.upkeep]", "hints = true\n\n[store.upkeep]", 1))
        lab.start_daemons()
        lab.start_customer(every=0.1)
        print(f"| {options.entries:,} entries | rounds | closed for, median s | worst s |")
        print("| --- | ---: | ---: | ---: |")
        for name, measure in (("switchover", switch_over), ("failover by a person", fail_over)):
            seconds = []
            for number in range(options.rounds):
                seconds.append(measure(lab))
                print(f"{name} {number + 1}: {seconds[-1]:.2f} s", file=sys.stderr, flush=True)
            print(row(name, seconds), flush=True)
        lost = lab.missing()
        print(f"\n{len(lab.acked())} orders acknowledged; {len(lost)} were newer than the last snapshot when their host died")


if __name__ == "__main__":
    try:
        main()
    except Trouble as trouble:
        sys.exit(f"failover.py: {trouble}")
