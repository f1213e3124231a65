#!/usr/bin/env python3
"""A customer who never sleeps: orders over several connections, and writes down what became of each order.

    customer.py URL LOG [--connections 4] [--every 0.4]   orders until it is ended by SIGTERM or Ctrl-C
    customer.py report LOG [TREE]                         says what became of the orders, and which TREE lacks

One line of JSON in LOG for each order: its id, when it was sent and answered (CLOCK_MONOTONIC, in seconds), whether it
was acknowledged, in which epoch, and otherwise why not. An order without an acknowledgement may be in the shop all the same: it
counts for nothing."""
import argparse, http.client, json, os, signal, sys, threading, time, urllib.parse


class Order:
    def __init__(self, line):
        self.__dict__.update(json.loads(line))


def read(log):
    """The orders of a log, by the time of their answers."""
    with open(log) as file:
        orders = [Order(line) for line in file if line.endswith("\n")]
    return sorted(orders, key=lambda order: order.answered)


def closed_for(orders, since=0, until=float("inf")):
    """The longest time without an acknowledgement, in seconds."""
    times = [order.answered for order in orders if order.acked and since <= order.answered <= until]
    return max((after - before for before, after in zip(times, times[1:])), default=0)


def missing(orders, tree):
    """Ids of the acknowledged orders that a tree does not have."""
    there = set(os.listdir(f"{tree}/orders"))
    return [order.id for order in orders if order.acked and f"{order.id}.json" not in there]


def order(connection, id):
    """Sends one order; returns the epoch in which it was acknowledged."""
    connection.request("POST", "/order", json.dumps({"id": id, "item": "shirt"}))
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise http.client.HTTPException(f"status {answer.status}")
    if json.loads(body)["id"] != id:
        raise http.client.HTTPException(f"another order is acknowledged: {body}")
    # The gate's header comes first, the edge's is behind it.
    return (answer.getheader("X-Understudy-Epoch") or "").split(",")[0]


def go_on_ordering(url, name, every, write, is_over):
    connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=5)
    number = 0
    while not is_over.wait(every):
        number += 1
        seen = {"id": f"{name}-{number:05}", "sent": time.monotonic(), "acked": True, "epoch": None, "why": None}
        try:
            seen["epoch"] = order(connection, seen["id"])
        except (OSError, http.client.HTTPException) as error:
            seen.update(acked=False, why=f"{type(error).__name__}: {error}")
            connection.close()
        write({**seen, "answered": time.monotonic()})


def go(options):
    url, lock, is_over = urllib.parse.urlsplit(options.url), threading.Lock(), threading.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: is_over.set())
    with open(options.log, "a", buffering=1) as log:

        def write(seen):
            with lock:
                log.write(json.dumps(seen) + "\n")

        # A second customer's orders have other ids.
        names = [f"{os.getpid()}-{chr(ord('a') + at)}" for at in range(options.connections)]
        threads = [threading.Thread(target=go_on_ordering, args=(url, name, options.every, write, is_over)) for name in names]
        for thread in threads:
            thread.start()
            time.sleep(options.every / options.connections)
        for thread in threads:
            thread.join()
    report(options.log)


def report(log, tree=None):
    orders = read(log)
    acked = [order for order in orders if order.acked]
    print(f"{len(acked)} orders acknowledged, {len(orders) - len(acked)} not; closed for {closed_for(orders):.2f} s at most")
    if tree:
        lost = missing(orders, tree)
        print(f"{len(lost)} acknowledged orders are not in {tree}" + (": " + " ".join(lost) if lost else ""))


def main():
    if sys.argv[1:2] == ["report"]:
        return report(*sys.argv[2:])
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("url")
    options.add_argument("log")
    options.add_argument("--connections", type=int, default=4)
    options.add_argument("--every", type=float, default=0.4, help="seconds between the orders of a connection")
    go(options.parse_args())


if __name__ == "__main__":
    main()
