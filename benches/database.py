#!/usr/bin/env python3
"""The replica of a database beside its primary: `benches/database.py target/release/understudy`.

Needs root and MariaDB (Debian's packages mariadb-server-core, mariadb-client, mariadb-backup). A primary with a pool of
256 MiB, durable at each commit, takes CHECKOUTS (5000) checkouts, each a transaction of 12 row changes in 7 tables, from
four clients. The replica that understudy seeded follows; then it is stopped, the same again, and it catches up. Memory is
that of the replica's server: resident, its share where several processes use a page (PSS), and what no other process
uses. The processor time of both servers is counted while they work. Beside both seeds, the same primary is copied by
mariadb-backup as a stream and by mariadb-dump, each through zstd -1, and its binary logs of what came between are counted.

Then the replica under plan Private, with four clients that make reports without a pause, and without them.

Then the archive of the same primary: a customer pays every 50 ms for BUSY (60) seconds, then nobody for as long. The lag
is the time from a commit's answer to the segment with it. The archive is restored to its end, and the tables compared."""
import glob, json, os, random, re, signal, socket, subprocess, sys, tempfile, threading, time

CHECKOUTS = int(os.environ.get("CHECKOUTS", "5000"))
BUSY = int(os.environ.get("BUSY", "60"))
SCHEMA = """CREATE DATABASE shop; USE shop;
CREATE TABLE quote (id INT PRIMARY KEY, total INT, state INT, note VARCHAR(200), KEY (state));
CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, quote INT, total INT, mail VARCHAR(80), note VARCHAR(400), KEY (quote), KEY (mail));
CREATE TABLE item (id INT AUTO_INCREMENT PRIMARY KEY, orders INT, product INT, price INT, note VARCHAR(200), KEY (orders), KEY (product));
CREATE TABLE address (id INT AUTO_INCREMENT PRIMARY KEY, orders INT, street VARCHAR(120), city VARCHAR(60), KEY (orders));
CREATE TABLE payment (id INT AUTO_INCREMENT PRIMARY KEY, orders INT, info VARCHAR(300), KEY (orders));
CREATE TABLE stock (product INT PRIMARY KEY, count INT);
CREATE TABLE grid (id INT AUTO_INCREMENT PRIMARY KEY, orders INT, words VARCHAR(200), KEY (words(40)));
INSERT INTO stock SELECT seq, 1000000 FROM seq_1_to_20000; INSERT INTO quote SELECT seq, 0, 0, MD5(seq) FROM seq_1_to_100000;
"""
PRIVILEGES = "RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, CONNECTION ADMIN, SLAVE MONITOR, REPLICATION SLAVE, SELECT"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def checkout(dice):
    word = lambda n: "".join(dice.choices("abcdefgh ijklmnop", k=n))
    products = sorted(dice.sample(range(1, 20001), 3))
    quote = dice.randrange(1, 100001)
    sql = ["BEGIN", f"UPDATE quote SET total={dice.randrange(9999)}, state=1, note='{word(60)}' WHERE id={quote}"]
    sql.append(f"INSERT INTO orders (quote, total, mail, note) VALUES ({quote}, 5, '{word(20)}', '{word(150)}')")
    sql.append("SET @o=LAST_INSERT_ID()")
    sql += [f"INSERT INTO item (orders, product, price, note) VALUES (@o, {p}, 3, '{word(80)}')" for p in products]
    sql += [f"INSERT INTO address (orders, street, city) VALUES (@o, '{word(40)}', '{word(20)}')" for _ in range(2)]
    sql.append(f"INSERT INTO payment (orders, info) VALUES (@o, '{word(120)}')")
    sql += [f"UPDATE stock SET count=count-1 WHERE product={p}" for p in products]
    sql.append(f"INSERT INTO grid (orders, words) VALUES (@o, '{word(90)}')")
    return ";\n".join(sql + ["COMMIT;\n"])


def fields(process):
    text = open(f"/proc/{process}/status").read()
    found = {key: int(re.search(key + r":\s+(\d+)", text)[1]) / 1024 for key in ("VmRSS", "RssAnon")}
    found["Pss"] = int(re.search(r"Pss:\s+(\d+)", open(f"/proc/{process}/smaps_rollup").read())[1]) / 1024
    return found


def memory(process):
    found = fields(process)
    return f"{found['VmRSS']:.0f}, {found['Pss']:.0f}, {found['RssAnon']:.0f}"


def cpu(process):
    parts = open(f"/proc/{process}/stat").read().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    def __init__(self, program, top):
        self.program, self.top, self.port = os.path.abspath(program), top, free_port()
        self.place = f"{top}/state/understudy/database-acme"

    def client(self, account, socket_path, sql):
        command = ["mariadb", *account, "-S", socket_path, "--protocol=socket", "-N", "-B"]
        return subprocess.run(command, input=sql, capture_output=True, text=True, check=True).stdout.strip()

    def primary(self, sql):
        return self.client(["--no-defaults", "-uroot"], f"{self.top}/socket", sql)

    def replica(self, sql):
        return self.client([f"--defaults-file={self.place}/account.cnf"], f"{self.place}/socket", sql)

    def begin(self):
        top = self.top
        subprocess.run(["mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db",
                        f"--datadir={top}/data"], check=True, capture_output=True)
        options = f"""[mariadbd]\nuser=root\ndatadir={top}/data\nsocket={top}/socket\nport={self.port}\nbind-address=127.0.0.1
log-error={top}/log\nlog-bin=bin\nserver-id=11\ngtid-domain-id=1\ngtid-strict-mode=1\nbinlog-format=ROW\nsync-binlog=1
binlog-expire-logs-seconds=604800\ninnodb-buffer-pool-size=256M\ninnodb-log-file-size=256M\n"""
        open(f"{top}/my.cnf", "w").write(options)
        self.server = subprocess.Popen(["mariadbd", f"--defaults-file={top}/my.cnf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                self.primary("SELECT 1")
                break
            except subprocess.CalledProcessError:
                time.sleep(0.1)
        for host in ("127.0.0.1", "localhost"):
            self.primary(f"CREATE USER understudy@'{host}' IDENTIFIED BY 'x'; GRANT {PRIVILEGES} ON *.* TO understudy@'{host}'")
        self.primary(SCHEMA)
        open(f"{top}/account.cnf", "w").write("[client]\nuser=understudy\npassword=x\n")
        open(f"{top}/understudy.toml", "w").write(f"""repository = "{top}/repository"\nencryption = "none"\n[[store]]\nname = "acme"
path = "/nowhere"\n[store.database]\nhost = "127.0.0.1"\nport = {self.port}\naccount_file = "{top}/account.cnf"\ndatadir = "{top}/replica"\n""")

    def understudy(self, *args):
        env = {**os.environ, "HOME": self.top, "XDG_STATE_HOME": f"{self.top}/state", "XDG_DATA_HOME": f"{self.top}/share",
               "XDG_CACHE_HOME": f"{self.top}/cache", "UNDERSTUDY_CONFIG": f"{self.top}/understudy.toml"}
        return subprocess.Popen([self.program, *args], env=env, stdout=subprocess.PIPE, text=True)

    def seed(self):
        begun, running = time.time(), self.understudy("database", "seed", "acme", "--json")
        report = json.loads(running.communicate()[0])
        return time.time() - begun, report["shipped_bytes"], report["size_bytes"]

    def peers(self, what):
        """Copies the primary by others' tools; returns rows with the seconds and the bytes of each."""
        server = ["--user=root", f"--socket={self.top}/socket"]
        tools = {
            "mariadb-backup, xbstream, zstd -1": ["mariadb-backup", "--no-defaults", "--backup", "--stream=xbstream", *server],
            "mariadb-dump, zstd -1": ["mariadb-dump", "--no-defaults", *server, "--single-transaction", "--gtid", "--master-data",
                                      "--all-databases"],
        }
        rows = []
        for name, command in tools.items():
            begun = time.time()
            tool = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=self.top)
            packed = subprocess.run("zstd -1 -c | wc -c", shell=True, stdin=tool.stdout, capture_output=True, text=True)
            if tool.wait():
                sys.exit(f"{name} failed")
            rows.append((f"{what} by {name}", f"{time.time() - begun:.1f} s, {int(packed.stdout) / 2**20:.1f} MiB"))
        return rows

    def binlog_bytes(self):
        return {path: os.path.getsize(path) for path in glob.glob(f"{self.top}/data/bin.0*")}

    def binlogs(self, began):
        raw = b"".join(open(path, "rb").read()[began.get(path, 0):] for path in sorted(self.binlog_bytes()))
        packed = subprocess.run(["zstd", "-1", "-c"], input=raw, capture_output=True, check=True).stdout
        return f"{len(raw) / 2**20:.1f}, {len(packed) / 2**20:.1f}"

    def load(self, seed):
        """Runs the checkouts; returns transactions a second, and the primary's processor time for each in µs."""
        texts = ["USE shop;\n" + "".join(checkout(dice) for _ in range(CHECKOUTS // 4))
                 for dice in (random.Random(f"{seed}-{client}") for client in range(4))]
        before, begun = cpu(self.server.pid), time.time()
        clients = []
        for text in texts:
            file = tempfile.TemporaryFile("w+")
            file.write(text)
            file.seek(0)
            command = ["mariadb", "--no-defaults", "-uroot", "-S", f"{self.top}/socket", "--force"]
            clients.append(subprocess.Popen(command, stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        for client in clients:
            client.wait()
        return CHECKOUTS / (time.time() - begun), (cpu(self.server.pid) - before) / CHECKOUTS * 1e6

    def id(self):
        return int(open(f"{self.place}/pid").read())

    def number(self, ask, variable):
        for part in ask(f"SELECT @@{variable}").split(","):
            if part.startswith("1-"):
                return int(part.split("-")[2])
        return 0

    def start(self):
        running = self.understudy("database", "run", "acme", "-q")
        for _ in range(600):
            try:
                self.replica("SELECT 1")
                return running
            except (subprocess.CalledProcessError, FileNotFoundError):
                time.sleep(0.02)
        sys.exit("the replica does not answer")

    def wait(self):
        """Waits until the replica has all; returns the seconds from the first transaction that it applied here."""
        wanted, first = self.number(self.primary, "gtid_binlog_pos"), self.number(self.replica, "gtid_slave_pos")
        begun = time.time()
        while (found := self.number(self.replica, "gtid_slave_pos")) < wanted:
            if found == first:
                begun = time.time()
            time.sleep(0.02)
        return time.time() - begun


REPORT = "SELECT i.product, COUNT(*), SUM(i.price), MAX(o.note) FROM item i JOIN orders o ON o.id = i.orders GROUP BY i.product ORDER BY 2 DESC LIMIT 20;\n"


def private(bench, rows):
    """The replica of plan Private catches up, without reports and with them."""
    top, account = bench.top, f"{bench.top}/reports.cnf"
    open(account, "w").write("[client]\nuser=understudy-reports\npassword=x\n")
    text = open(f"{top}/understudy.toml").read()
    reports = f'[store.database.reports]\naccount_file = "{account}"\nsocket = "{top}/reports.sock"\n'
    open(f"{top}/understudy.toml", "w").write(text.replace('name = "acme"\n', 'name = "acme"\nplan = "private"\n') + reports)
    for is_read in (False, True):
        bench.load(10 + is_read)
        running = bench.start()
        clients = []
        if is_read:
            while not os.path.exists(f"{top}/reports.sock"):
                time.sleep(0.01)
            for _ in range(4):
                command = ["mariadb", f"--defaults-file={account}", "-S", f"{top}/reports.sock", "shop"]
                asked = tempfile.TemporaryFile("w+")
                asked.write(REPORT * 10000)
                asked.seek(0)
                clients.append(subprocess.Popen(command, stdin=asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        seconds = bench.wait()
        word = "four clients make reports" if is_read else "nobody reads"
        rows.append((f"replica, Private, catching up while {word}, checkouts a second", f"{CHECKOUTS / seconds:.0f}"))
        rows.append((f"memory then: resident, PSS, private MiB", memory(bench.id())))
        for client in clients:
            if client.poll() is not None:
                sys.exit("a report failed")
            client.kill()
            client.wait()
        running.send_signal(signal.SIGTERM)
        running.wait()
    open(f"{top}/understudy.toml", "w").write(text)


class Archive:
    """An archiver under a plan, with what it has put."""

    def __init__(self, bench, plan):
        self.bench, top = bench, bench.top
        self.objects = f"{top}/repository/acme.database/binlog/*/*"
        text = re.sub(r'(name = "acme"\n)(plan = .*\n)?', f'name = "acme"\nplan = "{plan}"\n', open(f"{top}/understudy.toml").read())
        text = re.sub(r"\[store.database\]\n(mode = .*\n)?(socket = .*\n)?", f'[store.database]\nmode = "both"\nsocket = "{top}/socket"\n', text)
        open(f"{top}/understudy.toml", "w").write(text)
        self.running = bench.understudy("database", "archive", "acme", "-q")
        self.wait()

    def report(self):
        return json.load(open(f"{self.bench.top}/state/understudy/archive-acme/archive.json"))

    def wait(self):
        """Waits until all is archived."""
        while True:
            try:
                if self.report()["position"] == self.bench.primary("SELECT @@gtid_binlog_pos") and self.report()["state"] == "following":
                    return
            except (FileNotFoundError, json.JSONDecodeError):
                pass
            time.sleep(0.05)

    def busy(self):
        """A customer pays every 50 ms; returns the lags, the segments and the processor time of the archiver in ms a second."""
        dice, commits, ends, done = random.Random("busy"), [], [], threading.Event()

        def look():
            seen = len(glob.glob(self.objects))
            while not done.is_set():
                now = len(glob.glob(self.objects))
                if now != seen:
                    seen = now
                    ends.append(time.time())
                time.sleep(0.02)

        looker = threading.Thread(target=look)
        looker.start()
        client = subprocess.Popen(["mariadb", "--no-defaults", "-uroot", "-S", f"{self.bench.top}/socket", "-N", "-B", "--unbuffered", "shop"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        before, used, begun = len(glob.glob(self.objects)), cpu(self.running.pid), time.time()
        while time.time() - begun < BUSY:
            client.stdin.write(checkout(dice) + "SELECT 1;\n")
            client.stdin.flush()
            client.stdout.readline()
            commits.append(time.time())
            time.sleep(0.05)
        seconds, used = time.time() - begun, cpu(self.running.pid) - used
        segments = len(glob.glob(self.objects)) - before
        client.stdin.close()
        client.wait()
        self.wait()
        done.set()
        looker.join()
        lags = sorted(min((end - commit for end in ends if end >= commit), default=0) for commit in commits)
        return lags, segments / seconds * 3600, used / seconds * 1000, len(commits)

    def idle(self):
        before, used = len(glob.glob(self.objects)), cpu(self.running.pid)
        time.sleep(BUSY)
        return (len(glob.glob(self.objects)) - before) / BUSY * 3600, (cpu(self.running.pid) - used) / BUSY * 1000

    def end(self):
        self.running.send_signal(signal.SIGTERM)
        self.running.wait()


def archive(bench, rows):
    for plan in ("private", "standard"):
        kept = Archive(bench, plan)
        before = kept.report()
        lags, puts, used, count = kept.busy()
        after = kept.report()
        raw, stored = (after[key] - before[key] for key in ("events_bytes", "stored_bytes"))
        idle_puts, idle_used = kept.idle()
        lag = f"{lags[len(lags) // 2]:.2f}, {lags[len(lags) * 95 // 100]:.2f}, {lags[-1]:.2f}"
        rows.append((f"archive, {plan}: lag p50, p95, longest, s", lag))
        rows.append((f"archive, {plan}: puts an hour at {count / BUSY:.0f} checkouts a second, and idle", f"{puts:.0f}, {idle_puts:.0f}"))
        rows.append((f"archive, {plan}: ms of processor time a second, busy and idle", f"{used:.1f}, {idle_used:.1f}"))
        rows.append((f"archive, {plan}: bytes a checkout, raw and stored", f"{raw / count:.0f}, {stored / count:.0f}"))
        rows.append((f"archive, {plan}: memory of the archiver, resident MiB", f"{fields(kept.running.pid)['VmRSS']:.0f}"))
        kept.end()
    kept = Archive(bench, "private")
    before = kept.report()
    used, begun = cpu(kept.running.pid), time.time()
    bench.load(3)
    kept.wait()
    after = kept.report()
    raw, stored = (after[key] - before[key] for key in ("events_bytes", "stored_bytes"))
    rows.append((f"archive of {CHECKOUTS} checkouts at once: bytes a checkout, raw and stored", f"{raw / CHECKOUTS:.0f}, {stored / CHECKOUTS:.0f}"))
    rows.append(("archiver, µs of processor time a checkout then", f"{(cpu(kept.running.pid) - used) / CHECKOUTS * 1e6:.0f}"))
    rows.append(("memory of the archiver after it, resident MiB", f"{fields(kept.running.pid)['VmRSS']:.0f}"))
    kept.end()
    newest = max(glob.glob(f"{bench.top}/data/bin.0*"), key=os.path.getsize)
    packed = subprocess.run(["zstd", "-1", "-c", newest], capture_output=True)
    if packed.returncode == 0:
        rows.append(("zstd -1 of a whole binary log, share of its bytes", f"{len(packed.stdout) / os.path.getsize(newest):.3f}"))
    begun, running = time.time(), bench.understudy("database", "restore", "acme", "--to", "latest", "--into", f"{bench.top}/restored", "--json")
    report = json.loads(running.communicate()[0])
    rows.append((f"restore: seed and {report['transactions']} transactions of {report['segments']} segments, s", f"{time.time() - begun:.1f}"))


def main(program):
    with tempfile.TemporaryDirectory() as top:
        bench = Bench(program, top)
        bench.begin()
        rows = []
        try:
            seconds, shipped, size = bench.seed()
            rows.append(("seed", f"{seconds:.1f} s, {size >> 20} MiB, {shipped / 2**20:.1f} MiB shipped"))
            rows += bench.peers("first seed")
            began = bench.binlog_bytes()
            running = bench.start()
            bench.wait()
            time.sleep(5)
            rows.append(("memory idle: resident, PSS, private MiB", memory(bench.id())))
            before = cpu(bench.id())
            rate, micros = bench.load(1)
            behind = bench.wait()
            used = (cpu(bench.id()) - before) / CHECKOUTS * 1e6
            after = memory(bench.id())
            rows.append(("the primary alone pays, µs a checkout", f"{micros:.0f}"))
            rows.append((f"primary, checkouts a second, the replica following", f"{rate:.0f}"))
            rows.append(("replica equal after the last commit, s", f"{behind:.2f}"))
            rows.append(("replica, µs a checkout", f"{used:.0f}"))
            rows.append((f"memory after {CHECKOUTS} checkouts: resident, PSS, private MiB", after))
            running.send_signal(signal.SIGTERM)
            running.wait()
            alone, _ = bench.load(2)
            running = bench.start()
            process = bench.id()
            before, seconds = cpu(process), bench.wait()
            rows.append(("primary, checkouts a second, without a replica", f"{alone:.0f}"))
            rows.append(("replica catching up, checkouts a second", f"{CHECKOUTS / seconds:.0f}"))
            rows.append(("replica catching up, µs a checkout", f"{(cpu(process) - before) / CHECKOUTS * 1e6:.0f}"))
            rows.append(("memory after it: resident, PSS, private MiB", memory(process)))
            tables = "USE shop; CHECKSUM TABLE quote, orders, item, address, payment, stock, grid"
            if bench.primary(tables) != bench.replica(tables):
                sys.exit("the tables differ")
            running.send_signal(signal.SIGTERM)
            running.wait()
            seconds, shipped, size = bench.seed()
            rows.append((f"the next seed, {2 * CHECKOUTS} checkouts later", f"{seconds:.1f} s, {size >> 20} MiB, {shipped / 2**20:.1f} MiB shipped"))
            rows += bench.peers("next seed")
            rows.append(("binary logs of what came between, MiB: raw, zstd -1", bench.binlogs(began)))
            private(bench, rows)
            archive(bench, rows)
        finally:
            bench.server.kill()
            bench.server.wait()
        print("| what | found |\n| --- | ---: |")
        for row in rows:
            print(f"| {row[0]} | {row[1]} |")


main(sys.argv[1])
