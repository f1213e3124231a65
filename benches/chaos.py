#!/usr/bin/env python3
"""Bad luck by seeds: the two hosts in examples/two-hosts with databases, and one that only watches, under a customer who orders all the time.

    sudo benches/chaos.py [--rounds 200] [--seed 1] [--at-once 6] [--work DIR] [--keep DIR] [--understudy PROGRAM]
    sudo benches/chaos.py --noise MINUTES [--seed 1] [--at-once 3] …

Each round has machines of its own. By its seed, hosts lose their power, are paused, and are cut off from each other, the edge, the
repository or the watcher; daemons, servers of MariaDB and the shop are killed, and a person moves the store. Several of these hold at
once. Then everything is mended, and within --patience seconds one host must serve, the other must follow it and acknowledge, and nothing
may be told to fail. No order may be acknowledged in an epoch that a later one had ended, and of all acknowledged orders

    acknowledged - present - stranded = 0

of files as of rows. With --noise, only what is no death happens, for so many minutes in each of --at-once sets of machines: pages
are slow, a watcher or the repository is away, daemons are restarted, the shop is deployed under a file of maintenance. No failover
may come of it. --keep takes the logs of rounds that failed. The repository is a server of S3 on a machine of its own
(`tests/tools.sh` installs it)."""
import argparse, json, os, random, shutil, signal, subprocess, sys, time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples/two-hosts"))
import customer
from lab import ADDRESSES, CUTS, HOSTS, STORE, TREE, Lab, Trouble, children, wait_until

S3_SERVER = ROOT / "target/test-tools/venv/bin/moto_server"
PROBE = """
[[store.probe]]
kind = "http"
url = "http://127.0.0.1:8081/"
"""
PAIRS = [("web-1", "web-2"), ("web-1", "storage"), ("web-2", "storage"), ("web-1", "edge"), ("web-2", "edge"), ("watch-1", "web-1"), ("watch-1", "web-2"), ("watch-1", "storage"), ("watch-1", "edge")]
# Seconds that one trouble lasts, and between two beginnings: shorter than a lease as well as longer.
LASTS, BETWEEN = (1, 40), (1, 12)
EVERY = 0.2


def ignore(work, *arguments):
    """Does what may fail because of the troubles that there are."""
    try:
        work(*arguments)
    except (Trouble, OSError, subprocess.CalledProcessError):
        pass


class Troubles:
    """What is broken now, each with the time when it is to be mended."""

    def __init__(self, lab, dice, say):
        self.lab, self.dice, self.say, self.now = lab, dice, say, []
        self.cuts = Counter()

    def cut(self, one, other):
        """Cuts two machines off from each other, also where they are already."""
        pair = frozenset((one, other))
        self.cuts[pair] += 1
        if self.cuts[pair] == 1:
            self.lab.cut(one, other)

    def join(self, one, other):
        pair = frozenset((one, other))
        self.cuts[pair] -= 1
        if self.cuts[pair] == 0:
            self.lab.cut(one, other, is_cut=False)

    def hold(self, name, mend):
        """Has something mended later. One thing is not broken twice."""
        seconds = self.dice.uniform(*LASTS)
        self.now.append((time.monotonic() + seconds, name, mend))
        self.say(f"{name} for {seconds:.0f} s")

    def holds(self, name):
        return any(held == name for _, held, _ in self.now)

    def mend(self, everything=False):
        due = [held for held in self.now if everything or held[0] <= time.monotonic()]
        self.now = [held for held in self.now if held not in due]
        for _, name, mend in due:
            mend()
            self.say(f"mended: {name}")

    def wait(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.mend()
            time.sleep(0.2)


def cut(troubles):
    one, other = troubles.dice.choice(PAIRS)
    if not troubles.holds(f"cut {one} {other}"):
        troubles.cut(one, other)
        troubles.hold(f"cut {one} {other}", lambda: troubles.join(one, other))


def cut_off(troubles):
    """One machine reaches the edge only, or not even that."""
    one = troubles.dice.choice([*HOSTS, "watch-1"])
    if troubles.holds(f"cut off {one}"):
        return
    others = [other for other in ("web-1", "web-2", "storage", "watch-1", *troubles.dice.choice([["edge"], []])) if other != one]
    for other in others:
        troubles.cut(one, other)
    troubles.hold(f"cut off {one}", lambda: [troubles.join(one, other) for other in others])


def go_on(found):
    """What entered a namespace stops with the process there, and does not go on by itself."""
    for process in (found.daemon, found.supervisor):
        if process and process.poll() is None:
            for pid in (*children(process.pid), process.pid):
                ignore(os.kill, pid, signal.SIGCONT)


HOST_TROUBLES = ("power off", "pause", "daemon killed", "daemon stopped")


def host(troubles):
    found = troubles.dice.choice(troubles.lab.web)
    is_off = any(troubles.holds(f"{what} {found.name}") for what in HOST_TROUBLES)
    return None if is_off else found


def power_off(troubles):
    if not (found := host(troubles)):
        return
    lab = troubles.lab
    lab.power_off(found)

    def power_on():
        lab.power_on(found)
        found.start_database()
        found.start_daemon()

    troubles.hold(f"power off {found.name}", power_on)


def pause(troubles):
    """The host stands still, as a virtual machine that is moved."""
    if not (found := host(troubles)):
        return
    ignore(found.call, "kill", "-STOP", "-1")

    def end():
        ignore(found.call, "kill", "-CONT", "-1")
        go_on(found)

    troubles.hold(f"pause {found.name}", end)


def daemon_of(entered):
    # A process in a namespace is a child of what entered that.
    return children(entered.pid)[0]


def daemon(found):
    return daemon_of(found.daemon)


def stop_daemon(troubles):
    if not (found := host(troubles)):
        return
    os.kill(daemon(found), signal.SIGSTOP)
    troubles.hold(f"daemon stopped {found.name}", lambda: go_on(found))


def kill_daemon(troubles):
    if not (found := host(troubles)):
        return
    os.kill(daemon(found), signal.SIGKILL)
    found.daemon.wait()
    troubles.hold(f"daemon killed {found.name}", found.start_daemon)


def kill_shop(troubles):
    if found := host(troubles):
        pid = found.dir / "shop.pid"
        if pid.exists():
            ignore(found.call, "kill", "-KILL", pid.read_text().strip())
            troubles.say(f"shop killed {found.name}")


def kill_database(troubles):
    if found := host(troubles):
        pid = found.dir / "supervisor/pid"
        if pid.exists():
            ignore(found.call, "kill", "-KILL", pid.read_text().strip())
            troubles.say(f"database killed {found.name}")


def switch_over(troubles):
    found = host(troubles)
    if found and not troubles.holds("switchover"):
        running = found.begin("switchover", STORE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def end():
            running.kill()
            running.wait()

        troubles.hold("switchover", end)


def resync(troubles):
    if found := host(troubles):
        subprocess.run(found.inside("timeout", "10", found.program, "resync", STORE), env=found.env, capture_output=True)
        troubles.say(f"resync {found.name}")


def lose_primary(troubles):
    """The primary dies, and is away until the other host serves, or for two minutes where that one may not."""
    serving = [found for found in troubles.lab.web if found.serves()]
    if len(serving) != 1 or any(troubles.holds(f"{what} {serving[0].name}") for what in HOST_TROUBLES):
        return
    [primary], lab = serving, troubles.lab
    [other] = [found for found in lab.web if found is not primary]
    lab.power_off(primary)
    troubles.say(f"{primary.name} is lost")
    end = time.monotonic() + 120
    while time.monotonic() < end and not other.serves():
        troubles.wait(1)
    troubles.say(f"{other.name} serves: {other.serves()}")
    lab.power_on(primary)
    primary.start_database()
    primary.start_daemon()


DEADLY = [cut, cut, cut_off, cut_off, power_off, power_off, pause, stop_daemon, kill_daemon, kill_shop, kill_database, switch_over, resync]


def slow_pages(troubles):
    """Pages and everything else of both hosts take a second more for customers."""
    if not troubles.holds("slow pages"):
        milliseconds = troubles.dice.choice([200, 500, 1000])
        troubles.lab.edge.call("tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", f"{milliseconds}ms", "loss", "1%")
        troubles.hold("slow pages", lambda: troubles.lab.edge.call("tc", "qdisc", "del", "dev", "eth0", "root"))


def away(troubles, name, one, others):
    if not troubles.holds(name):
        for other in others:
            troubles.cut(one, other)
        troubles.hold(name, lambda: [troubles.join(one, other) for other in others])


def lonely_watcher(troubles):
    away(troubles, "watcher cut off", "watch-1", ["web-1", "web-2", "storage", "edge"])


def repository_away(troubles):
    away(troubles, "repository away", "storage", ["web-1", "web-2"])


def restart_daemon(troubles):
    if not (found := host(troubles)):
        return
    os.kill(daemon(found), signal.SIGTERM)
    found.daemon.wait()
    found.start_daemon()
    troubles.say(f"daemon restarted {found.name}")


def restart_watcher(troubles):
    [found] = troubles.lab.watchers
    os.kill(daemon(found), signal.SIGKILL)
    found.daemon.wait()
    found.start_daemon()
    troubles.say("watcher restarted")


def deploy(troubles):
    """Someone changes the code, under a file of maintenance: the shop is stopped, and started again."""
    if troubles.holds("deploy"):
        return
    primary = troubles.lab.web[0]
    flag = primary.path(TREE) / ".maintenance"
    flag.touch()
    # What is watched is looked at every second or two.
    time.sleep(3)
    command = [sys.executable, primary.dir / "shop.py", "WHAT", TREE, "8081", primary.dir / "shop.pid", primary.dir / "mysqld.sock"]
    run = lambda what: primary.call(*[what if word == "WHAT" else word for word in command])
    run("stop")

    def end():
        run("start")
        flag.unlink()

    troubles.hold("deploy", end)


def brief_pause(troubles):
    if found := host(troubles):
        os.kill(daemon(found), signal.SIGSTOP)
        time.sleep(troubles.dice.uniform(1, 6))
        go_on(found)
        troubles.say(f"daemon stood still {found.name}")


HARMLESS = [slow_pages, lonely_watcher, repository_away, restart_daemon, restart_watcher, deploy, brief_pause, resync]


def begin(options, exit):
    lab = exit.enter_context(Lab(options.understudy, options.work, S3_SERVER, has_database=True, watchers=1))
    lab.start()
    lab.filter("-f", "-", input=CUTS)
    lab.found()
    lab.leave_to_watchers(PROBE)
    lab.start_daemons()
    wait_until("web-2 acknowledges", lambda: "web-2" in (lab.web[0].failover() or {}).get("synced", []))
    wait_until("web-2 is ready", lambda: all(item["level"] != "red" for item in (lab.web[1].failover() or {}).get("ready", [{"level": "red"}])))
    lab.start_customer(every=EVERY)
    return lab


def why_unsettled(lab):
    """What is not yet as it must be in the end; none if everything is."""
    serving = [host for host in lab.web if host.serves()]
    if len(serving) != 1:
        return f"{len(serving)} hosts serve"
    [primary] = serving
    [other] = [host for host in lab.web if host is not primary]
    here, there = primary.failover(), other.failover()
    if not here or not there:
        return "a daemon does not answer"
    if (here["phase"], there["phase"]) != ("primary", "standby"):
        return f"{primary.name} is {here['phase']}, {other.name} is {there['phase']}"
    if here["handover_to"] or there["handover_to"]:
        return "a handover is not over"
    if here["failing"] or there["failing"]:
        return f"failing: {here['failing']} {there['failing']}"
    if other.name not in here.get("synced", []):
        return f"{other.name} does not acknowledge; its database is {other.database().get('state')}"
    return None if lab.answers() else "customers reach nobody"


def rejoin(lab, say):
    """Does what a person is told to do where a former primary's server has transactions of its own: it keeps them as files, and begins
    anew. Returns how often that was needed."""
    needed = 0
    for host in lab.web:
        if host.database().get("state") == "broken":
            kept = host.dir / f"rows-{time.monotonic_ns()}"
            command = (host.program, "database", "rejoin", STORE, "--yes", "--reseed", "--into", kept)
            os.kill(daemon_of(host.supervisor), signal.SIGTERM)
            host.supervisor.wait()
            done = subprocess.run(host.inside(*command), env=host.env, capture_output=True, text=True)
            host.start_database()
            say(f"database of {host.name} rejoined: {done.returncode} {done.stderr.strip() or done.stdout.strip()}")
            needed += 1
    return needed


def stranded_orders(lab, primary):
    """The files that are committed as stranded, and what was kept of stranded rows."""
    files = set()
    for record in lab.stranded(primary):
        for line in primary.understudy("stranded", "show", STORE, str(record), "--json").splitlines():
            path = json.loads(line)["path"]
            if path.startswith("orders/"):
                files.add(Path(path).stem)
    kept = [file for host in lab.web for directory in host.dir.glob("rows-*") for file in directory.rglob("*") if file.is_file()]
    return files, [file.read_bytes().decode(errors="replace") for file in kept]


def epochs_that_go_back(acked):
    """Orders that were sent after a later epoch had answered."""
    highest, wrong = [], []
    for order in acked:
        before = max((epoch for answered, epoch in highest if answered < order.sent), default=0)
        if int(order.epoch) < before:
            wrong.append(order.id)
        if not highest or int(order.epoch) > highest[-1][1]:
            highest.append((order.answered, int(order.epoch)))
    return wrong


def judge(lab):
    """Counts what was acknowledged, what is stranded, and what is wrong."""
    lab.stop_customer()
    primary, acked, wrong = lab.primary(), lab.acked(), []
    missing, rows = lab.missing(), lab.missing_rows()
    files, transactions = stranded_orders(lab, primary)
    lost_files = [order for order in missing if order not in files]
    lost_rows = [order for order in rows if not any(order in text for text in transactions)]
    if lost_files:
        wrong.append(f"files that are nowhere: {lost_files[:20]} ({len(lost_files)})")
    if lost_rows:
        wrong.append(f"rows that are nowhere: {lost_rows[:20]} ({len(lost_rows)})")
    if back := epochs_that_go_back(acked):
        wrong.append(f"acknowledged in an epoch that had ended: {back[:20]}")
    return len(acked), len(missing) - len(lost_files), len(rows) - len(lost_rows), wrong


def epoch(lab):
    return (lab.primary().role() or {}).get("epoch")


def round_of(options, seed):
    from contextlib import ExitStack

    dice, told, begun = random.Random(seed), [], time.monotonic()
    say = lambda text: told.append(f"{time.monotonic() - begun:6.1f} s  {text}")
    found = {"seed": seed, "acked": 0, "files": 0, "rows": 0, "rejoined": 0, "epochs": 0, "closed": 0.0, "settled": 0.0, "wrong": []}
    with ExitStack() as exit:
        try:
            lab = begin(options, exit)
        except Trouble as trouble:
            return {**found, "wrong": [f"could not begin: {trouble}"]}
        troubles = Troubles(lab, dice, say)
        try:
            if options.noise:
                end = time.monotonic() + options.noise * 60
                while time.monotonic() < end:
                    dice.choice(HARMLESS)(troubles)
                    troubles.wait(dice.uniform(5, 25))
            else:
                for _ in range(dice.randint(3, 7)):
                    dice.choice(DEADLY)(troubles)
                    troubles.wait(dice.uniform(*BETWEEN))
                if dice.random() < 0.5:
                    lose_primary(troubles)
            troubles.mend(everything=True)
            mended = time.monotonic()
            why = "not looked at"
            while why and time.monotonic() < mended + options.patience:
                time.sleep(0.5)
                if why := why_unsettled(lab):
                    found["rejoined"] += rejoin(lab, say)
                    continue
                # It may be on the way to something.
                time.sleep(3)
                why = why_unsettled(lab)
            found["settled"] = time.monotonic() - mended
            if why:
                found["wrong"].append(f"not settled: {why}")
            found["epochs"] = epoch(lab) - 1
            found["acked"], found["files"], found["rows"], wrong = judge(lab)
            found["wrong"] += wrong
            found["closed"] = customer.closed_for(customer.read(lab.orders))
            if options.noise and found["epochs"]:
                found["wrong"].append("the store moved")
        except (Trouble, OSError, subprocess.CalledProcessError) as trouble:
            found["wrong"].append(f"{type(trouble).__name__}: {trouble}")
        for host in lab.web:
            go_on(host)
        if options.keep and (found["wrong"] or options.keep_all):
            kept = Path(options.keep) / f"seed-{seed}"
            kept.mkdir(parents=True, exist_ok=True)
            (kept / "troubles").write_text("\n".join([*told, *found["wrong"]]) + "\n")
            for host in (*lab.web, *lab.watchers):
                (kept / f"{host.name}.json").write_text(json.dumps([host.failover(), host.database()], indent=1))
                for log in host.dir.glob("*.log"):
                    shutil.copy(log, kept / f"{host.name}-{log.name}")
            shutil.copy(lab.orders, kept)
    return found


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=200)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--at-once", type=int, default=6)
    options.add_argument("--patience", type=float, default=180)
    options.add_argument("--noise", type=float, default=0)
    options.add_argument("--work")
    options.add_argument("--keep")
    options.add_argument("--keep-all", action="store_true")
    options.add_argument("--understudy", default=ROOT / "target/release/understudy")
    options = options.parse_args()
    options.understudy = Path(options.understudy).resolve()
    rounds = options.at_once if options.noise else options.rounds
    seeds, all = range(options.seed, options.seed + rounds), []
    with ProcessPoolExecutor(options.at_once) as pool:
        for found in pool.map(partial(round_of, options), seeds):
            all.append(found)
            words = "; ".join(found["wrong"]) or "sound"
            print(f"seed {found['seed']}: {found['acked']} acknowledged, {found['epochs']} moves, closed for {found['closed']:.0f} s, settled after {found['settled']:.0f} s: {words}", file=sys.stderr, flush=True)
    total = lambda what: sum(found[what] for found in all)
    wrong = [found["seed"] for found in all if found["wrong"]]
    print("| rounds | acknowledged orders | moves of the store | stranded files | databases rejoined | stranded rows | rounds with an order that is nowhere | rounds that were wrong |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    lost = sum(1 for found in all for words in found["wrong"] if "nowhere" in words)
    print(f"| {len(all)} | {total('acked')} | {total('epochs')} | {total('files')} | {total('rejoined')} | {total('rows')} | {lost} | {len(wrong)} |")
    sys.exit(f"wrong: seeds {wrong}" if wrong else 0)


if __name__ == "__main__":
    try:
        main()
    except (Trouble, subprocess.CalledProcessError) as trouble:
        sys.exit(f"chaos.py: {trouble}")
