#!/usr/bin/env python3
"""A standby, beside its peers, in one run: following a change (beside rsync), and mounts of a snapshot (beside the
same tree on ext4, restic mount and borg mount).

    benches/standby.py [--work DIR] [--million]

The tree is that of compare.sh: 131,069 entries, 1.1 GB; --million: 1,000,101 entries, understudy and ext4 only.
Every mount is read with the kernel's caches dropped before (cold), names and small files also again
(warm); what a FUSE server keeps in its own memory it keeps. Prints tables in Markdown.
"""
import argparse, json, os, random, shutil, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNDERSTUDY = ROOT / "target/release/understudy"
DUMP = "var/dump.sql"


def run(*command, env=None):
    done = subprocess.run([str(c) for c in command], env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr}")
    return done.stdout


def timed(*command, env=None):
    """Wall seconds, CPU seconds, peak MiB, output."""
    with tempfile.NamedTemporaryFile() as times:
        started = time.monotonic()
        out = run("/usr/bin/time", "-o", times.name, "-f", "%U %S %M", *command, env=env)
        wall = time.monotonic() - started
        user, system, peak = open(times.name).read().split()[-3:]
        return wall, float(user) + float(system), int(peak) / 1024, out


def drop_caches():
    run("sync")
    Path("/proc/sys/vm/drop_caches").write_text("3")


def clock(action):
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def walk(top):
    """Every entry's metadata."""
    stack, entries = [str(top)], 0
    while stack:
        with os.scandir(stack.pop()) as found:
            for entry in found:
                entries += 1
                entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
    return entries


def read_small(top, names):
    for name in names:
        with open(top / name, "rb") as file:
            file.read()


def read_large(top):
    with open(top / DUMP, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def read_random(top):
    dice = random.Random(1)
    size = os.path.getsize(top / DUMP)
    handle = os.open(top / DUMP, os.O_RDONLY)
    for _ in range(2000):
        os.pread(handle, 4096, dice.randrange(size >> 12) << 12)
    os.close(handle)


def wait_for(path):
    for _ in range(6000):
        if os.path.ismount(path):
            return
        time.sleep(0.01)
    sys.exit(f"{path} was not mounted")


def measure(top, names, large):
    """Rows of one mount: name of the step, seconds."""
    steps = [("first ls", lambda: os.listdir(top)), ("walk, cold", lambda: walk(top))]
    if names:
        steps.append((f"{len(names):,} small files, cold", lambda: read_small(top, names)))
    if large:
        steps += [("512 MB in order, cold", lambda: read_large(top)), ("2,000 random 4 KiB, cold", lambda: read_random(top))]
    rows = []
    for name, step in steps:
        drop_caches()
        rows.append((name, clock(step)))
        if "walk" in name or "small" in name:
            rows.append((name.replace("cold", "warm"), clock(step)))
    return rows


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("| --- |" + " ---: |" * (len(head) - 1))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--work")
    options.add_argument("--million", action="store_true")
    options = options.parse_args()
    needed = {"rsync": "rsync", "restic": "restic", "borg": "borgbackup", "fusermount": "fuse3"}
    missing = [package for program, package in needed.items() if not shutil.which(program)]
    if missing or not Path("/usr/bin/time").exists():
        run("apt-get", "install", "-y", "-qq", "time", "python3-pyfuse3", *missing)
    run("cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", ROOT / "Cargo.toml")
    if options.work:
        os.makedirs(options.work, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=options.work))
    store, replica, point = work / "store", work / "replica", work / "mounted"
    env = {**os.environ, "HOME": str(work), "UNDERSTUDY_REPOSITORY": str(work / "repo"), "UNDERSTUDY_STANDBY": str(work / "standby"),
           "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(work / "restic"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
           "XDG_CACHE_HOME": str(work / "cache")}
    try:
        point.mkdir()
        bench(options, work, store, replica, point, env)
    finally:
        subprocess.run(["umount", "-l", point], capture_output=True)
        shutil.rmtree(work, ignore_errors=True)


def bench(options, work, store, replica, point, env):
    maker = ROOT / "benches/store_tree.py"
    run(sys.executable, maker, *(["million", store] if options.million else ["make", store]))
    resync = [UNDERSTUDY, "resync", store, "--store", "s", "--quiet", "--accept"]
    follow = [UNDERSTUDY, "follow", "s", "--once", "--json"]
    copy = ["rsync", "-aHAX", "--delete", "--stats", f"{store}/", f"{replica}/"]
    run(*resync, env=env)
    rows = []

    def step(name, tool, command):
        run("sync")
        wall, cpu, peak, out = timed(*command, env=env)
        if tool == "rsync":
            fetched = next(int(line.split(":")[1].replace(",", "").split()[0]) for line in out.splitlines() if line.startswith("Total bytes sent"))
        else:
            fetched = json.loads(out)["requests"]["received_bytes"]
        rows.append((name, tool, f"{wall:.2f}", f"{cpu:.2f}", f"{peak:.0f}", f"{fetched / 2**20:.2f}"))
        print(rows[-1], file=sys.stderr, flush=True)

    step("first", "understudy", follow)
    if not options.million:
        step("first", "rsync", copy)
        run(sys.executable, maker, "later", store)
        run(*resync, env=env)
        step("four hours later", "understudy", follow)
        step("four hours later", "rsync", copy)
        os.rename(store / "vendor", store / "supplier")
        run(*resync, env=env)
        step("vendor renamed", "understudy", follow)
        step("vendor renamed", "rsync", copy)
    table(["following", "tool", "wall s", "CPU s", "peak MiB", "MiB received"], rows)

    names = []
    for directory, _, files in os.walk(store):
        names += [os.path.relpath(os.path.join(directory, name), store) for name in files if name.endswith((".php", ".txt")) or options.million]
    names = random.Random(2).sample(sorted(names), 5000)
    columns = {}
    drop_caches()
    mounts = []
    for _ in range(5):
        mounts.append(clock(lambda: run(UNDERSTUDY, "mount", "s", point, "--quiet", env=env)))
        if len(mounts) < 5:
            run(UNDERSTUDY, "umount", point, "--quiet", env=env)
    columns["understudy, kernel"] = [("mount, first", mounts[0]), ("mount, median", sorted(mounts)[2])] + measure(point, names, not options.million)
    run(UNDERSTUDY, "umount", point, "--quiet", env=env)
    # As on a machine that has nothing: no standby, no cache.
    bare = {**env, "UNDERSTUDY_STANDBY": str(work / "none"), "XDG_CACHE_HOME": str(work / "no-cache")}
    drop_caches()
    mounts = []
    for _ in range(5):
        mounts.append(clock(lambda: run(UNDERSTUDY, "mount", "s", point, "--quiet", "--method", "fuse", env=bare)))
        if len(mounts) < 5:
            run(UNDERSTUDY, "umount", point, "--quiet", env=bare)
    columns["understudy, FUSE"] = [("mount, first", mounts[0]), ("mount, median", sorted(mounts)[2])] + measure(point, names, not options.million)
    run(UNDERSTUDY, "umount", point, "--quiet", env=bare)
    if options.million:
        columns["ext4"] = [("mount, first", 0), ("mount, median", 0)] + measure(store, names, False)
    else:
        columns["ext4"] = [("mount, first", 0), ("mount, median", 0)] + measure(replica, names, True)
        run("restic", "init", env=env)
        run("restic", "backup", store, env=env)
        run("borg", "init", "-e", "none", work / "borg", env=env)
        run("borg", "create", f"{work / 'borg'}::a", store, env=env)
        below = str(store).lstrip("/")
        for name, command, top in (
            ("restic mount", ["restic", "mount", point], point / "snapshots/latest" / below),
            ("borg mount", ["borg", "mount", "-f", f"{work / 'borg'}::a", point], point / below),
        ):
            began = time.perf_counter()
            serving = subprocess.Popen([str(c) for c in command], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_for(point)
            took = time.perf_counter() - began
            columns[name] = [("mount, first", took), ("mount, median", took)] + measure(top, names, True)
            run("umount", "-l", point)
            serving.wait()
    steps = [name for name, _ in columns["understudy, kernel"]]
    rows = []
    for at, name in enumerate(steps):
        rows.append([f"{name}, s" if "mount" not in name else f"{name}, ms"] + [f"{c[at][1] * 1e3:.1f}" if "mount" in name else f"{c[at][1]:.3f}" for c in columns.values()])
    table(["reading", *columns], rows)


main()
