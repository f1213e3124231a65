#!/usr/bin/env python3
"""Two hosts on this machine: a planned switchover, a dead host, and what became of its orders.

    sudo python3 run.py [--understudy PROGRAM] [--work DIR] [--stay]

Takes half a minute. --stay keeps everything running at the end, to look around."""
import argparse, shutil, signal, subprocess, sys, time
from pathlib import Path

import customer
from lab import HERE, STORE, Lab, Trouble, wait_until

BEGUN = time.monotonic()


def say(text):
    print(f"{time.monotonic() - BEGUN:6.1f} s  {text}", flush=True)


def title(text):
    print(f"\n{text}", flush=True)


def show(host, *arguments):
    """Runs a command of understudy, and shows it as a person on that host sees it."""
    print(f"          {host.name}# understudy {' '.join(arguments)}")
    running = host.begin(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for line in running.stdout:
        print(f"          {line}", end="", flush=True)
    if running.wait():
        raise Trouble(f"{host.name}: understudy {' '.join(arguments)} ended with {running.returncode}")


def tell_orders(lab, since):
    """Says how long the shop was closed, and returns which acknowledged orders are missing."""
    lab.wait_for_orders()
    orders = customer.read(lab.orders)
    closed = customer.closed_for(orders, since)
    lost, rows = lab.missing(), lab.missing_rows()
    acked = sum(order.acked for order in orders)
    say(f"{lab.primary().name} serves; closed for {closed:.1f} s; of {acked} acknowledged orders {len(lost)} files and {len(rows)} rows are missing")
    return lost, rows


def switch_over(lab):
    title("1. A planned switchover")
    begun = time.monotonic() - 1
    show(lab.web[0], "switchover", STORE)
    tell_orders(lab, begun)


def lose_a_host(lab):
    survivor, dead = lab.web
    title(f"2. {dead.name} loses its power")
    dead.understudy("resync", STORE)
    say(f"the last snapshot of {dead.name}; what is ordered from now on is only there")
    lab.wait_for_orders(20)
    begun = time.monotonic() - 1
    lab.power_off(dead)
    say(f"{dead.name} is dead, with all its processes; somebody looked, and decides")
    show(survivor, "failover", STORE, "--yes", "--is-down", "--reason", f"{dead.name} lost its power")
    lost, rows = tell_orders(lab, begun)
    say(f"missing files: {' '.join(sorted(lost))}")
    say(f"missing rows: {' '.join(sorted(rows)) or 'none, since the replica had received them'}")


def bring_it_back(lab):
    survivor, dead = lab.web
    title(f"3. {dead.name} comes back, and its orders with it")
    lab.power_on(dead)
    dead.start_database()
    dead.start_daemon()
    [number] = wait_until(f"{dead.name} commits what only it has", lambda: lab.stranded(survivor))
    say(f"{dead.name} is no primary any more; it has committed what only it had")
    show(survivor, "stranded", "list", STORE)
    show(survivor, "stranded", "take", STORE, str(number), "orders")
    found = wait_until(f"the database of {dead.name} says what it is", lambda: dead.database().get("state") in ("following", "broken") and dead.database())
    say(f"{len(lab.missing())} files are missing; the database of {dead.name} is {found['state']}")
    if found["state"] == "broken":
        show(dead, "database", "demote", STORE)


def find_program(given):
    for program in (given, HERE / "../../target/release/understudy", HERE / "../../target/debug/understudy", shutil.which("understudy")):
        if program and Path(program).exists():
            return Path(program).resolve()
    raise Trouble("there is no understudy: cargo build --release, or --understudy PROGRAM")


def stay(lab):
    title("Everything goes on until Ctrl-C. To look around on a host:")
    for host in lab.web:
        print(f"  {host.name}: nsenter -t {host.first} -n -m -u -p env UNDERSTUDY_CONFIG={host.dir}/understudy.toml "
              f"XDG_STATE_HOME={host.dir}/state XDG_CACHE_HOME={host.dir}/cache {host.program} status")
    print(f"  orders: {lab.orders}", flush=True)
    signal.pause()


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--understudy", help="the program; default: of this source tree, or on the PATH")
    options.add_argument("--work", help="where the hosts keep their files: on ext4 or XFS; default: the usual place of temporary files")
    options.add_argument("--stay", action="store_true")
    options = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("run.py: ended; everything is taken away"))
    # Also where a shell has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Lab(find_program(options.understudy), options.work, has_database=True) as lab:
        lab.start()
        say("two hosts, an edge (HAProxy) and a customer, each in namespaces of its own")
        lab.found()
        say("web-1 founded the store 'shop' and its database, web-2 joined")
        lab.start_daemons()
        lab.start_customer()
        say("web-1 serves, web-2 follows, the customer orders")
        switch_over(lab)
        lose_a_host(lab)
        bring_it_back(lab)
        if options.stay:
            stay(lab)
    title("Everything is taken away again.")


if __name__ == "__main__":
    try:
        main()
    except Trouble as trouble:
        sys.exit(f"run.py: {trouble}")
    except KeyboardInterrupt:
        sys.exit("run.py: stopped; everything is taken away")
