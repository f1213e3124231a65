#!/usr/bin/env python3
"""One large file and what happens to it, in one run: understudy beside rsync, rdiff, xdelta3, zstd --patch-from,
restic, borg and casync.

    benches/deltas.py [--size-mib 512] [--work DIR] [--cases NAME,…] [--tools NAME,…] [--repeat N]

--image: an 8 GiB sparse file (2 GiB of data) instead. --versions: twenty versions of a 78 MB dump instead.
Prints tables in Markdown: bytes that were shipped or added to the repository, CPU seconds (user and system, of
all processes), peak memory. Before each case every tool has the base; the new file is in the page cache.
understudy works from an empty cache, as a container does. Every result is restored and compared.
rdiff, xdelta3 and zstd make a patch, and need the old file (rdiff: a signature, which is counted as CPU); they
are given it. The tools come from Debian's packages.
"""
import argparse, json, os, random, shutil, sqlite3, statistics, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNDERSTUDY = ROOT / "target/release/understudy"
WORDS = "amber basil cedar delta ember flint grove hazel ivory jade karma lotus maple north ocean pearl".split()


class CpuMeter:
    """The CPU time of all processes that a command starts, from a control group (version 1 or 2): rsync does not wait
    for all of its own, so that what `time` says is short now and then."""

    def __init__(self):
        top = Path("/sys/fs/cgroup")
        second = (top / "cgroup.controllers").exists()
        self.group = (top if second else top / "cpuacct") / f"understudy-bench-{os.getpid()}"
        self.group.mkdir()
        self.file, self.second = self.group / ("cpu.stat" if second else "cpuacct.usage"), second

    def join(self):
        (self.group / "cgroup.procs").write_text("0")

    def seconds(self):
        text = self.file.read_text()
        return int(text.split()[1]) / 1e6 if self.second else int(text) / 1e9

    def finish(self):
        """Waits for the last of them; the seconds of all."""
        while (self.group / "cgroup.procs").read_text():
            time.sleep(0.01)
        seconds = self.seconds()
        self.group.rmdir()
        return seconds


def run(*command, cwd=None, env=None, out=None):
    """Runs a command; returns (CPU seconds, peak KiB, its output). `time` starts it, since what a process peaks at
    counts from its start, and Python's own memory would count."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr, tempfile.NamedTemporaryFile() as times:
        timed = ["/usr/bin/time", "-o", times.name, "-f", "%M", *(str(c) for c in command)]
        meter = CpuMeter()
        status = subprocess.run(timed, stdout=out or stdout, stderr=stderr, cwd=cwd, env=env, preexec_fn=meter.join).returncode
        if status:
            stderr.seek(0)
            sys.exit(f"{command}: {stderr.read().decode()}")
        stdout.seek(0)
        return meter.finish(), int(times.read()), stdout.read().decode(errors="replace")


def tree_bytes(path):
    return sum(f.stat().st_size for f in Path(path).rglob("*") if f.is_file())


# What the files are made of.

def rows(dice, size, table="sales_order"):
    """Lines of a dump, `size` bytes of them, in pieces."""
    number = made = 0
    while made < size:
        lines = []
        for _ in range(4000):
            number += 1
            lines.append(
                f"INSERT INTO `{table}` VALUES ({number},'{dice.getrandbits(96):024x}','{dice.choice(WORDS)} {dice.choice(WORDS)}',"
                f"{dice.randrange(1000)}.{dice.randrange(100):02d},'2026-{dice.randrange(1, 13):02d}-{dice.randrange(1, 29):02d}',{dice.getrandbits(20)});\n"
            )
        piece = "".join(lines).encode()[: size - made]
        made += len(piece)
        yield piece


def write(path, pieces):
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)


def dump(path, size, seed=1):
    write(path, rows(random.Random(seed), size))


def pages(path, size):
    """InnoDB's: 16 KiB, checksums and sequence numbers at both ends, rows between, a third free."""
    dice = random.Random(5)
    text = b"".join(rows(dice, 64 << 20))
    def all_pages():
        for number in range(size >> 14):
            at = dice.randrange(len(text) - 16384)
            yield dice.randbytes(4) + number.to_bytes(4, "big") + dice.randbytes(30) + text[at : at + 11000] + bytes(5338) + dice.randbytes(8)
    write(path, all_pages())


def database(path, size):
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; CREATE TABLE o (id INTEGER PRIMARY KEY, name TEXT, total REAL, note TEXT); CREATE INDEX n ON o (name);")
    dice = random.Random(6)
    for batch in range(size // 340 // 1000):
        connection.executemany("INSERT INTO o VALUES (?,?,?,?)", (
            (batch * 1000 + n, f"{dice.getrandbits(64):x}", dice.random(), f"{dice.getrandbits(400):x} {dice.choice(WORDS)}" * 2) for n in range(1000)))
    connection.commit()
    connection.close()


def archive(path, size):
    members = Path(str(path) + ".members")
    members.mkdir(exist_ok=True)
    dice = random.Random(7)
    text = b"".join(rows(dice, 64 << 20))
    for number in range(size // 60000):
        at = dice.randrange(len(text) - 120000)
        (members / f"{number:06d}.php").write_bytes(f"<?php // {number}\n".encode() + text[at : at + dice.randrange(1000, 119000)])
    run("tar", "--sort=name", "--mtime=@0", "-cf", path, "-C", members, ".")


def image(path, size):
    dice = random.Random(8)
    with open(path, "wb") as file:
        file.truncate(size)
        for stretch in range(256):
            file.seek(stretch * (size // 256) + dice.randrange(4096) * 4096)
            file.write(dice.randbytes(size // 256 // 4))


# What happens to them.

def touch(path, dice):
    os.utime(path, (0, os.path.getmtime(path) + 60))


def edit_in_place(path, dice):
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        for _ in range(size // 100 // 4096):
            file.seek(dice.randrange(size >> 12) << 12)
            file.write(b"".join(rows(dice, 4096)))


def edit_data(path, dice):
    """As `edit_in_place`, where there is data: holes stay."""
    size = os.path.getsize(path)
    file = os.open(path, os.O_RDWR)
    for _ in range(size // 4 // 100 // 4096):
        at = os.lseek(file, dice.randrange(size - (64 << 20)), os.SEEK_DATA) & -4096
        os.pwrite(file, dice.randbytes(4096), at + 8192)
    os.close(file)


def splice(path, at, cut, new):
    old = Path(str(path) + ".old")
    os.rename(path, old)
    run("bash", "-c", f"head -c {at} '{old}' && printf %s '{new}' && tail -c +{at + cut + 1} '{old}'", out=open(path, "wb"))
    os.remove(old)


def insert(path, dice):
    splice(path, 5000, 0, f"{dice.getrandbits(400):0100x}"[:100])


def insert_sparse(path, dice):
    """100 bytes near the front of a sparse file: all data moves, and stays between holes."""
    old = Path(str(path) + ".old")
    os.rename(path, old)
    size = os.path.getsize(old)
    with open(old, "rb") as source, open(path, "wb") as file:
        file.truncate(size + 100)
        at = 0
        while True:
            try:
                start = os.lseek(source.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(source.fileno(), start, os.SEEK_HOLE)
            source.seek(start)
            file.seek(start + 100)
            file.write(source.read(at - start))
        file.seek(5000)
        file.write(dice.randbytes(100))
    os.remove(old)


def append(path, dice):
    size = os.path.getsize(path) // 100
    with open(path, "ab") as file:
        for piece in rows(dice, size):
            file.write(piece)


def append_random(path, dice):
    size = os.path.getsize(path) // 100
    with open(path, "ab") as file:
        file.write(dice.randbytes(size))


def rotate(path, dice):
    """It grew by 1 %, was renamed, and began anew with as much."""
    size = os.path.getsize(path) // 100
    append(path, dice)
    os.rename(path, str(path) + ".1")
    write(path, rows(dice, size))


def rewrite(path, dice):
    dump(path, os.path.getsize(path), seed=99)


def change_rows(path, dice):
    """2,000 rows of a dump changed, 500 deleted, 500 added."""
    data = bytearray(open(path, "rb").read())
    for number in range(3000):
        at = data.index(b"\n", dice.randrange(len(data) - 400)) + 1
        end = data.index(b"\n", at) + 1
        row = next(rows(dice, 90))
        data[at:end] = [b"", data[at:end] + row + b"\n", bytes(data[at:end][:-9]) + b"%06d);\n" % dice.randrange(10**6)][min(number % 6, 2)]
    open(path, "wb").write(data)


def change_pages(path, dice):
    """500 rows in 500 pages: some bytes inside, the sequence number and the checksum at both ends."""
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        for _ in range(500):
            at = dice.randrange(size >> 14) << 14
            for offset, length in ((0, 4), (16, 8), (38 + dice.randrange(10000), 80), (16376, 8)):
                file.seek(at + offset)
                file.write(dice.randbytes(length))


def change_database(path, dice):
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")
    most = connection.execute("SELECT max(id) FROM o").fetchone()[0]
    for _ in range(500):
        connection.execute("UPDATE o SET total=?, name=? WHERE id=?", (dice.random(), f"{dice.getrandbits(64):x}", dice.randrange(most)))
    connection.commit()
    connection.close()


def change_members(path, dice):
    members = Path(str(path) + ".members")
    for member in dice.sample(sorted(members.iterdir()), 40):
        text = member.read_bytes()
        at = dice.randrange(len(text))
        member.write_bytes(text[:at] + b"// changed\n" * dice.randrange(1, 60) + text[at:])
    run("tar", "--sort=name", "--mtime=@0", "-cf", path, "-C", members, ".")


CASES = {
    "unchanged but touched": (dump, touch),
    "1 % edited in place, 4 KiB each": (dump, edit_in_place),
    "100 bytes inserted near the front": (dump, insert),
    "1 % appended": (dump, append),
    "1 % appended, incompressible": (dump, append_random),
    "log grown, rotated, begun anew": (dump, rotate),
    "rewritten wholly": (dump, rewrite),
    "SQL dump, 3,000 rows changed": (dump, change_rows),
    "SQLite, 500 rows updated": (database, change_database),
    "InnoDB-like, 500 pages changed": (pages, change_pages),
    "tar, 40 members changed": (archive, change_members),
}
IMAGE = {
    "8 GiB sparse, touched": (image, touch),
    "8 GiB sparse, 1 % edited in place": (image, edit_data),
    "8 GiB sparse, 100 bytes inserted": (image, insert_sparse),
    "8 GiB sparse, 1 % appended": (image, append_random),
}


# The tools. Each has a place of its own; `base` brings it to the base, `change` ships the change and returns
# (bytes, CPU seconds, peak KiB).

class Tool:
    def __init__(self, work, source):
        self.place, self.source = work / type(self).__name__.lower(), source
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()

    def added(self, *command, **options):
        before = tree_bytes(self.place)
        cpu, memory, _ = run(*command, **options)
        return tree_bytes(self.place) - before, cpu, memory


class Understudy(Tool):
    def resync(self):
        cpu, memory, out = run(UNDERSTUDY, "resync", self.source, "--store", "s", "--json", "--accept",
                               env={**os.environ, "UNDERSTUDY_REPOSITORY": str(self.place / "repo"), "HOME": str(self.place), "XDG_CACHE_HOME": tempfile.mkdtemp(dir=self.place)})
        return json.loads(out), cpu, memory

    def base(self):
        self.resync()

    def change(self):
        report, cpu, memory = self.resync()
        self.fetched = report["requests"]["received_bytes"]
        self.check()
        return report["shipped_bytes"], cpu, memory

    def check(self):
        out = self.place / "out"
        shutil.rmtree(out, ignore_errors=True)
        run(UNDERSTUDY, "restore", "s", out, "--quiet", env={**os.environ, "UNDERSTUDY_REPOSITORY": str(self.place / "repo"), "HOME": str(self.place)})
        run("diff", "-r", self.source, out)
        shutil.rmtree(out)


class Rsync(Tool):
    sparse = ()

    def base(self):
        run("rsync", "-a", *self.sparse, "--no-whole-file", "--delete", f"{self.source}/", f"{self.place}/")

    def change(self):
        cpu, memory, out = run("rsync", "-a", *self.sparse, "--no-whole-file", "--delete", "--stats", f"{self.source}/", f"{self.place}/")
        literal = next(line for line in out.splitlines() if line.startswith("Literal data"))
        return int(literal.split()[2].replace(",", "")), cpu, memory


class Patch(Tool):
    """Makes a patch for each file from its old self."""
    def base(self):
        shutil.rmtree(self.place)
        run("cp", "-a", "--sparse=always", self.source, self.place)

    def change(self):
        total, cpu, memory = 0, 0.0, 0
        for new in sorted(self.source.iterdir()):
            old, patch = self.place / new.name, self.place / "patch"
            if not old.exists():
                old = Path(os.devnull)
            for command in self.commands(old, new, patch):
                seconds, peak, _ = run(*command)
                cpu, memory = cpu + seconds, max(memory, peak)
            total += patch.stat().st_size
        return total, cpu, memory


class Rdiff(Patch):
    def commands(self, old, new, patch):
        signature = self.place / "signature"
        return [("rdiff", "-f", "signature", old, signature), ("rdiff", "-f", "delta", signature, new, patch)]


class Xdelta3(Patch):
    def commands(self, old, new, patch):
        window = min(max(os.path.getsize(new), 1 << 20), 1 << 31)
        return [("xdelta3", "-f", "-e", "-B", window, "-s", old, new, patch)]


class Zstd(Patch):
    def commands(self, old, new, patch):
        if old == Path(os.devnull):
            return [("zstd", "-qf", new, "-o", patch)]
        return [("zstd", "-qf", "--long=31", f"--patch-from={old}", new, "-o", patch)]


class Restic(Tool):
    def base(self):
        self.env = {**os.environ, "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(self.place / "repo"), "HOME": str(self.place)}
        if not (self.place / "repo").exists():
            run("restic", "init", env=self.env)
        run("restic", "backup", "--no-cache", self.source, env=self.env)

    def change(self):
        return self.added("restic", "backup", "--no-cache", self.source, env=self.env)


class Borg(Tool):
    def base(self):
        self.env = {**os.environ, "BORG_BASE_DIR": str(self.place.parent / "borg-home"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}
        if not (self.place / "config").exists():
            run("borg", "init", "-e", "none", self.place, env=self.env)
        run("borg", "create", f"{self.place}::{{now}}-base", self.source, env=self.env)

    def change(self):
        return self.added("borg", "create", f"{self.place}::{{now}}-next", self.source, env=self.env)


class Casync(Tool):
    def make(self):
        return self.added("casync", "make", f"--store={self.place}/store.castr", self.place / "tree.caidx", self.source)

    def base(self):
        self.make()

    def change(self):
        return self.make()


TOOLS = {tool.__name__.lower(): tool for tool in (Understudy, Rsync, Rdiff, Xdelta3, Zstd, Restic, Borg, Casync)}


def show(count):
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} B"


def table(title, names, results, cell):
    print(f"\n| {title} | " + " | ".join(names) + " |")
    print("| --- |" + " ---: |" * len(names))
    for case, by_tool in results.items():
        print(f"| {case} | " + " | ".join(cell(by_tool.get(name)) for name in names) + " |", flush=True)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--size-mib", type=int)
    options.add_argument("--work")
    options.add_argument("--cases")
    options.add_argument("--tools")
    options.add_argument("--repeat", type=int, default=1)
    options.add_argument("--image", action="store_true")
    options.add_argument("--versions", action="store_true")
    options = options.parse_args()
    wanted = [("time",), ("rsync",), ("rdiff",), ("xdelta3",), ("zstd",), ("restic",), ("borg", "borgbackup"), ("casync",)]
    missing = [names[-1] for names in wanted if not shutil.which(names[0])]
    if missing:
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", *missing)
    run("cargo", "build", "--release", "--locked", "--quiet", cwd=ROOT)
    cases = IMAGE if options.image else CASES
    Rsync.sparse = ("-S",) if options.image else ()
    size = (options.size_mib or (8192 if options.image else 512)) << 20
    names = options.tools.split(",") if options.tools else list(TOOLS)
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        if options.versions:
            return versions(Path(work), names)
        results = {}
        made = None
        for case, (make, change) in cases.items():
            if options.cases and not any(wanted in case for wanted in options.cases.split(",")):
                continue
            base = Path(work) / "base"
            if made != make:
                run("rm", "-rf", base, f"{base}.file.members")
                base.mkdir()
                make(base / "file", size)
                members = base / "file.members"
                if members.exists():
                    shutil.move(members, Path(work) / "members")
                made = make
            source = Path(work) / "source"
            tools = [TOOLS[name](Path(work), source) for name in names]
            samples = {name: [] for name in names}
            for _ in range(options.repeat):
                run("rm", "-rf", source)
                run("cp", "-a", "--sparse=always", base, source)
                for tool in tools:
                    tool.base()
                # The members of an archive lie beside it only while it is made.
                beside = source / "file.members"
                if make is archive:
                    run("cp", "-a", Path(work) / "members", beside)
                change(source / "file", random.Random(case))
                if make is archive:
                    shutil.rmtree(beside)
                for tool, name in zip(tools, names):
                    run("bash", "-c", f"cat '{source}'/* >/dev/null; sync")
                    samples[name].append(tool.change())
                    print(case, name, samples[name][-1], file=sys.stderr, flush=True)
            # The median of CPU time; the bytes of the first run, since others find chunks of it.
            results[case] = {name: (got[0][0], statistics.median(g[1] for g in got), max(g[2] for g in got)) for name, got in samples.items()}
            for tool in tools:
                run("rm", "-rf", tool.place)
        table("shipped", names, results, lambda r: show(r[0]) if r else "")
        table("CPU seconds", names, results, lambda r: f"{r[1]:.2f}" if r else "")
        table("peak MiB", names, results, lambda r: f"{r[2] / 1024:.0f}" if r else "")


def versions(work, names):
    source = work / "source"
    source.mkdir()
    dump(source / "dump.sql", 78_000_000)
    tools = [TOOLS[name](work, source) for name in names]
    for tool in tools:
        tool.base()
    dice = random.Random(20)
    shipped = {name: [] for name in names}
    for _ in range(20):
        data = bytearray((source / "dump.sql").read_bytes())
        for _ in range(60):
            at = data.index(b"\n", dice.randrange(len(data) - 400)) + 1
            end = data.index(b"\n", at)
            data[end - 8 : end - 2] = b"%d" % dice.randrange(10**6)
        (source / "dump.sql").write_bytes(data + b"".join(rows(dice, 20_000)))
        for tool, name in zip(tools, names):
            shipped[name].append(tool.change()[0])
            if isinstance(tool, Patch):
                tool.base()
    print("\n| 20 versions of a 78 MB dump, 60 edits and 20 KB appended in each | first | last | all |")
    print("| --- | ---: | ---: | ---: |")
    for name in names:
        print(f"| {name} | {show(shipped[name][0])} | {show(shipped[name][-1])} | {show(sum(shipped[name]))} |")
    repo = work / "understudy/repo"
    if repo.exists():
        env = {**os.environ, "UNDERSTUDY_REPOSITORY": str(repo), "HOME": str(work)}
        fetched = []
        for snapshot in (1, 21):
            out = work / f"out-{snapshot}"
            log = run(UNDERSTUDY, "restore", f"s@{snapshot}", out, "--json", env=env)[2]
            fetched.append(json.loads(log)["requests"]["received_bytes"])
        run("diff", "-r", source, work / "out-21")
        print(f"\nA restore fetches {show(fetched[0])} for the first version and {show(fetched[1])} for the last: {fetched[1] / fetched[0]:.2f} times as much.")


main()
