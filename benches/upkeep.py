#!/usr/bin/env python3
"""What encryption costs, and what pruning, verification and a drill do, over the store-like tree of compare.sh.

    benches/upkeep.py [ROUNDS]

Encrypted and plain runs alternate; medians of ROUNDS (5). Prints tables in Markdown."""

import os, resource, shutil, statistics, subprocess, sys, tempfile, time

here = os.path.dirname(os.path.abspath(__file__))
subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=here, check=True)
understudy = os.path.join(here, "../target/release/understudy")
rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
work = tempfile.mkdtemp()
os.chdir(work)
make = os.path.join(here, "store_tree.py")
subprocess.run([sys.executable, make, "make", "store", os.environ.get("SCALE", "1")], check=True)
shutil.copytree("store", "before", symlinks=True, copy_function=shutil.copy2)
subprocess.run([sys.executable, make, "later", "store"], check=True)
os.rename("store", "after")


def run(kind, *args):
    """Wall seconds, CPU seconds, peak MiB."""
    subprocess.run("find before after -type f -print0 | xargs -0 cat >/dev/null; sync", shell=True, check=True)
    environment = dict(os.environ, HOME=f"{work}/home-{kind}", UNDERSTUDY_REPOSITORY=f"{work}/repo-{kind}", XDG_CACHE_HOME=f"{work}/cache-{kind}")
    for name in ("UNDERSTUDY_KEY_FILE", "UNDERSTUDY_PASSPHRASE"):
        environment.pop(name, None)
    config = f"{work}/{kind}.toml"
    with open(config, "w") as file:
        file.write('encryption = "none"\n' if kind == "plain" else "")
    begun = time.monotonic()
    process = subprocess.Popen([understudy, "--config", config, *args], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - begun
    assert status == 0, args
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def size(kind):
    total = subprocess.run(["du", "-sb", f"repo-{kind}"], capture_output=True, text=True, check=True)
    return int(total.stdout.split()[0]) / 2**20


steps = ["initial", "unchanged", "four hours later", "restore", "verify --read-data"]
figures = {(step, kind): [] for step in steps for kind in ("plain", "encrypted")}
sizes = {}
for number in range(rounds):
    for kind in ("plain", "encrypted") if number % 2 == 0 else ("encrypted", "plain"):
        for name in (f"repo-{kind}", f"cache-{kind}", f"home-{kind}"):
            shutil.rmtree(name, ignore_errors=True)
        os.rename("before", "store")
        note = lambda step, *args: figures[step, kind].append(run(kind, *args)[:2])
        # The cache of pages of the tree that is read lies below another name each time.
        os.symlink("store", "before")
        note("initial", "resync", "store", "--store", "acme", "--quiet")
        note("unchanged", "resync", "store", "--store", "acme", "--quiet")
        os.remove("before")
        os.rename("store", "before")
        os.symlink("after", "store")
        note("four hours later", "resync", "after", "--store", "acme", "--quiet", "--accept")
        # To a place of its own: ext4 is slow to make files where many were deleted a moment ago.
        note("restore", "restore", "acme", f"out-{kind}-{number}", "--quiet")
        note("verify --read-data", "verify", "acme", "--read-data", "--quiet")
        os.remove("store")
        sizes[kind] = size(kind)

print("| median of %d | plain wall s | CPU s | encrypted wall s | CPU s | CPU ratio |" % rounds)
print("| --- | ---: | ---: | ---: | ---: | ---: |")
for step in steps:
    wall, cpu = ({kind: statistics.median(f[at] for f in figures[step, kind]) for kind in ("plain", "encrypted")} for at in (0, 1))
    print(f"| {step} | {wall['plain']:.2f} | {cpu['plain']:.2f} | {wall['encrypted']:.2f} | {cpu['encrypted']:.2f} | {cpu['encrypted'] / cpu['plain']:.2f} |")
print(f"| repository, MiB | {sizes['plain']:.1f} | | {sizes['encrypted']:.1f} | | {sizes['encrypted'] / sizes['plain']:.3f} |")
print()
print("| upkeep, encrypted | wall s | CPU s | peak MiB | repository MiB |")
print("| --- | ---: | ---: | ---: | ---: |")
grace = ["--grace", "0", "--grace-records", "0", "--quiet"]
for what, args in [
    ("prune, nothing to do", ["prune", "acme", "--keep-last", "9", *grace]),
    ("prune: two of three snapshots dropped", ["prune", "acme", "--keep-last", "1", *grace]),
    ("prune --max-unused 0: packs copied", ["prune", "acme", "--keep-last", "1", "--max-unused", "0", *grace]),
    ("prune: what was doomed is deleted", ["prune", "acme", "--keep-last", "1", *grace]),
    ("verify --read-data=5%", ["verify", "acme", "--read-data=5%", "--quiet"]),
    ("drill: mounted, every file read", ["drill", "acme", "--quiet"]),
]:
    wall, cpu, peak = run("encrypted", *args)
    print(f"| {what} | {wall:.2f} | {cpu:.2f} | {peak:.0f} | {size('encrypted'):.1f} |")
os.chdir("/")
shutil.rmtree(work)
