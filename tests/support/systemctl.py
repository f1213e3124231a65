#!/usr/bin/env python3
"""A small service manager in place of systemd's, which containers lack: start, stop, kill and show, with real
processes. Units are files beside it: units/NAME holds one shell command, units/NAME.leaves marks a unit whose
stop ends its first process only. Each call is noted in `calls`."""
import os, signal, subprocess, sys, time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
UNITS = os.path.join(HERE, "units")


def members(unit):
    """Processes of the unit's session that have not ended."""
    try:
        first = int(open(os.path.join(UNITS, unit + ".pid")).read())
    except (FileNotFoundError, ValueError):
        return []
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == first and fields[0] not in "ZX":
                found.append(int(name))
    return sorted(found, key=lambda pid: pid != first)


def send(unit, what):
    pids = members(unit)
    only_first = what == signal.SIGTERM and os.path.exists(os.path.join(UNITS, unit + ".leaves"))
    for pid in pids[:1] if only_first else pids:
        try:
            os.kill(pid, what)
        except ProcessLookupError:
            pass


def state(unit):
    pids = members(unit)
    first = os.path.join(UNITS, unit + ".pid")
    if not os.path.exists(os.path.join(UNITS, unit)):
        return "not-found", "inactive", 0
    if pids and str(pids[0]) == open(first).read():
        stopping = os.path.exists(os.path.join(UNITS, unit + ".stopping"))
        return "loaded", "deactivating" if stopping else "active", len(pids)
    return "loaded", "inactive", len(pids)


def main():
    with open(os.path.join(HERE, "calls"), "a") as calls:
        calls.write(" ".join(sys.argv[1:]) + "\n")
    verb, units = sys.argv[1], [a for a in sys.argv[2:] if not a.startswith("-")]
    for at, unit in enumerate(units):
        stopping = os.path.join(UNITS, unit + ".stopping")
        if verb == "show":
            load, active, tasks = state(unit)
            print(("\n" if at else "") + f"Id={unit}\nLoadState={load}\nActiveState={active}")
            print(f"TasksCurrent={tasks or '[not set]'}")
        elif state(unit)[0] == "not-found":
            sys.exit(f"Unit {unit} not found.")
        elif verb == "start" and state(unit)[1] != "active":
            null = open(os.devnull, "r+")
            command = open(os.path.join(UNITS, unit)).read()
            child = subprocess.Popen(["sh", "-c", command], start_new_session=True, stdin=null, stdout=null, stderr=null)
            time.sleep(0.05)
            if child.poll() is not None:
                sys.exit(f"Job for {unit} failed.")
            with open(os.path.join(UNITS, unit + ".pid"), "w") as pid:
                pid.write(str(child.pid))
        elif verb == "stop":
            open(stopping, "w").close()
            send(unit, signal.SIGTERM)
            while "--no-block" not in sys.argv and state(unit)[1] != "inactive":
                time.sleep(0.02)
            if "--no-block" not in sys.argv:
                os.unlink(stopping)
        elif verb == "kill":
            send(unit, signal.SIGKILL)


main()
