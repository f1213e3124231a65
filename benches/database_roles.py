#!/usr/bin/env python3
"""Promotions and handovers of a database, and what semi-synchronous commits cost: `benches/database_roles.py target/release/understudy`.

Needs root and MariaDB (Debian's packages mariadb-server-core, mariadb-client, mariadb-backup). Two hosts under plan Private on
one machine. A customer commits an order every 10 ms to whichever server takes it. In each of ROUNDS (20) handovers the primary refuses
writes, the other applies its last transaction and takes writes, and the first follows. In each of ROUNDS promotions the primary's server
and supervisor are killed by SIGKILL while commits wait for the standby; the other is promoted at once, and the dead one comes back as a
replica. *Closed for* is the longest time between two orders that were acknowledged. Each round ends with equal checksums, and each
acknowledged order is looked for at the end.

Then one customer commits COMMITS (1000) orders, three times without semi-synchronous replication and three times with it, in turns."""
import json, os, signal, socket, statistics, subprocess, sys, tempfile, threading, time

ROUNDS = int(os.environ.get("ROUNDS", "20"))
COMMITS = int(os.environ.get("COMMITS", "1000"))
PRIVILEGES = "RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, CONNECTION ADMIN, SLAVE MONITOR, REPLICATION SLAVE, SELECT"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(what, is_so, seconds=120):
    begun = time.monotonic()
    while not is_so():
        if time.monotonic() - begun > seconds:
            sys.exit(f"not within {seconds} s: {what}")
        time.sleep(0.02)


class Host:
    def __init__(self, program, top, name, role, port, other):
        self.program, self.top, self.port = os.path.abspath(program), f"{top}/{name}", port
        self.place = f"{self.top}/state/understudy/database-acme"
        os.makedirs(f"{self.top}/shop")
        open(f"{self.top}/shop/file", "w").write("x")
        open(f"{self.top}/account.cnf", "w").write("[client]\nuser=understudy\npassword=x\n")
        os.chmod(f"{self.top}/account.cnf", 0o600)
        open(f"{self.top}/understudy.toml", "w").write(f"""repository = "{top}/repository"\nwriter = "{name}"\nencryption = "none"
[[store]]\nname = "acme"\npath = "{self.top}/shop"\nrole = "{role}"\nplan = "private"\n[store.database]\nhost = "127.0.0.1"
port = {other}\naccount_file = "{self.top}/account.cnf"\ndatadir = "{self.top}/database"\n[store.database.serve]
listen = "127.0.0.1:{port}"\nmemory_mib = 128\n""")

    def command(self, *args, **variables):
        env = {**os.environ, "HOME": self.top, "XDG_STATE_HOME": f"{self.top}/state", "XDG_DATA_HOME": f"{self.top}/share",
               "XDG_CACHE_HOME": f"{self.top}/cache", "UNDERSTUDY_CONFIG": f"{self.top}/understudy.toml", **variables}
        return {"args": [self.program, *args], "env": env, "text": True}

    def understudy(self, *args, codes=(0,), **variables):
        done = subprocess.run(**self.command(*args, **variables), capture_output=True)
        if done.returncode not in codes:
            sys.exit(f"{args}: {done.stderr}{done.stdout}")
        return done.stdout

    def order(self, verb, *args, epoch, **variables):
        return self.understudy("database", verb, "acme", *args, UNDERSTUDY_EPOCH=str(epoch), **variables)

    def supervise(self):
        self.supervisor = subprocess.Popen(**self.command("database", "run", "acme", "-q"), stdout=subprocess.DEVNULL,
                                           stderr=open(f"{self.top}/errors", "a"))
        wait_until("the supervisor answers", self.answers)

    def answers(self):
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(f"{self.place}/orders.socket") == 0

    def state(self):
        done = subprocess.run(**self.command("database", "status", "acme", "--json"), capture_output=True)
        try:
            return json.loads(done.stdout)["replica"]["state"]
        except (ValueError, KeyError, TypeError):
            return None

    def sql(self, sql):
        command = ["mariadb", "--no-defaults", "-uroot", "-S", f"{self.place}/socket", "--protocol=socket", "-N", "-B"]
        return subprocess.run(command, input=sql, capture_output=True, text=True, check=True).stdout.strip()

    def kill(self):
        os.kill(int(open(f"{self.place}/pid").read()), signal.SIGKILL)
        self.supervisor.kill()
        self.supervisor.wait()


class Customer(threading.Thread):
    """Commits orders all the time, to whichever of the ports takes them."""

    def __init__(self, ports, name):
        super().__init__(daemon=True)
        self.ports, self.name_of_orders, self.acks, self.is_over = ports, name, [], False

    def client(self, port):
        command = ["mariadb", "--no-defaults", "-ushop", "--protocol=tcp", "--host=127.0.0.1", f"--port={port}", "--connect-timeout=2",
                   "--batch", "--skip-column-names", "--unbuffered", "--skip-reconnect"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def run(self):
        client, at, number = None, 0, 0
        while not self.is_over:
            client = client or self.client(self.ports[at])
            number += 1
            try:
                client.stdin.write(f"INSERT INTO shop.orders VALUES ('{self.name_of_orders}-{number}', 'x'); SELECT {number};\n")
                client.stdin.flush()
                is_acknowledged = client.stdout.readline().strip() == str(number)
            except BrokenPipeError:
                is_acknowledged = False
            if is_acknowledged:
                self.acks.append((time.monotonic(), number))
                time.sleep(0.01)
                continue
            client.kill()
            client.communicate()
            client, at = None, (at + 1) % len(self.ports)
        if client:
            client.kill()
            client.communicate()

    def wait(self, count):
        before = len(self.acks)
        wait_until(f"{count} more orders", lambda: len(self.acks) >= before + count)

    def closed_for(self, since):
        times = [at for at, _ in self.acks if at >= since - 1]
        return max(after - before for before, after in zip(times, times[1:]))

    def first_after(self, moment):
        return next(at for at, _ in self.acks if at > moment) - moment


class Bench:
    def __init__(self, program, top):
        first, second = free_port(), free_port()
        self.one, self.two = Host(program, top, "one", "primary", first, second), Host(program, top, "two", "standby", second, first)
        self.epoch = 1

    def begin(self):
        one = self.one
        one.understudy("resync", "acme", "-q")
        one.understudy("database", "found", "acme")
        one.supervise()
        one.understudy("database", "promote", "acme")
        one.sql(f"CREATE USER understudy@'127.0.0.1' IDENTIFIED BY 'x'; GRANT {PRIVILEGES} ON *.* TO understudy@'127.0.0.1';"
                "CREATE DATABASE shop; CREATE USER shop@'127.0.0.1'; GRANT ALL ON shop.* TO shop@'127.0.0.1';"
                "CREATE TABLE shop.orders (id VARCHAR(40) PRIMARY KEY, note VARCHAR(200))")
        one.understudy("database", "seed", "acme", "-q")
        self.two.supervise()
        self.follows(self.two)

    def follows(self, host):
        """Waits until a host follows; says what it does instead."""
        begun = time.monotonic()
        while host.state() != "following":
            if time.monotonic() - begun > 120:
                sys.exit(host.understudy("database", "status", "acme", codes=range(16)) + open(f"{host.top}/errors").read())
            time.sleep(0.02)

    def equal(self):
        position = self.one.sql("SELECT @@gtid_binlog_pos")
        self.two.order("wait", position, epoch=self.epoch)
        if self.one.sql("CHECKSUM TABLE shop.orders") != self.two.sql("CHECKSUM TABLE shop.orders"):
            sys.exit("the tables differ")

    def exchange(self):
        self.one, self.two = self.two, self.one

    def hand_over(self, customer):
        customer.wait(30)
        begun = time.monotonic()
        said = self.one.order("fence", epoch=self.epoch, UNDERSTUDY_FENCE="planned")
        position = said.strip().splitlines()[-1].removeprefix("position ")
        refused = time.monotonic()
        self.epoch += 1
        self.two.order("promote", "--position", position, epoch=self.epoch)
        promoted = time.monotonic()
        customer.wait(30)
        self.one.order("fence", epoch=self.epoch)
        self.one.order("demote", epoch=self.epoch)
        self.exchange()
        self.follows(self.two)
        return customer.closed_for(begun), refused - begun, promoted - refused

    def fail_over(self, customer):
        self.two.order("acks", "on", epoch=self.epoch)
        self.one.order("semi-sync", "on", epoch=self.epoch)
        customer.wait(30)
        killed = time.monotonic()
        self.one.kill()
        begun = time.monotonic()
        self.epoch += 1
        self.two.order("promote", epoch=self.epoch)
        customer.wait(30)
        # Without that it would serve on in its old role.
        self.one.order("fence", epoch=self.epoch)
        self.one.supervise()
        self.one.order("demote", epoch=self.epoch)
        self.exchange()
        self.follows(self.two)
        return customer.first_after(begun), customer.closed_for(killed)

    def commits(self, is_semi_sync):
        """Returns the times of commits of one customer, in ms."""
        switch = "on" if is_semi_sync else "off"
        self.two.order("acks", switch, epoch=self.epoch)
        self.follows(self.two)
        self.one.order("semi-sync", switch, epoch=self.epoch)
        customer = Customer([self.one.port], "one")
        client, times = customer.client(self.one.port), []
        for number in range(COMMITS):
            begun = time.monotonic()
            client.stdin.write(f"INSERT INTO shop.costs (note) VALUES ('x'); SELECT {number};\n")
            client.stdin.flush()
            if client.stdout.readline().strip() != str(number):
                sys.exit("a commit failed")
            times.append((time.monotonic() - begun) * 1000)
        client.kill()
        client.communicate()
        return times

    def end(self):
        for host in (self.one, self.two):
            host.supervisor.terminate()
            host.supervisor.wait()


def median_and_worst(seconds):
    return f"{statistics.median(seconds) * 1000:.0f}, {max(seconds) * 1000:.0f}"


def main(program):
    with tempfile.TemporaryDirectory() as top:
        bench, rows = Bench(program, top), []
        bench.begin()
        customer = Customer([bench.one.port, bench.two.port], "customer")
        customer.start()
        handovers = [bench.hand_over(customer) for _ in range(ROUNDS)]
        failovers = [bench.fail_over(customer) for _ in range(ROUNDS)]
        customer.is_over = True
        customer.join()
        bench.equal()
        there = set(bench.one.sql("SELECT id FROM shop.orders").splitlines())
        missing = [number for _, number in customer.acks if f"customer-{number}" not in there]
        closed, refused, promoted = zip(*handovers)
        rows.append((f"handover, closed for, ms: median, worst of {ROUNDS}", median_and_worst(closed)))
        rows.append(("of it the primary's part, `database fence --planned`", median_and_worst(refused)))
        rows.append(("of it the other's part, `database promote`", median_and_worst(promoted)))
        rows.append(("promotion, from the command to the first write, ms", median_and_worst([first for first, _ in failovers])))
        rows.append(("promotion, closed for since the kill, ms", median_and_worst([closed for _, closed in failovers])))
        rows.append(("orders acknowledged, and missing at the end", f"{len(customer.acks)}, {len(missing)}"))
        bench.one.sql("CREATE TABLE shop.costs (id INT AUTO_INCREMENT PRIMARY KEY, note VARCHAR(20))")
        found = {False: [], True: []}
        for _ in range(3):
            for is_semi_sync in (False, True):
                found[is_semi_sync] += bench.commits(is_semi_sync)
        for is_semi_sync, word in ((False, "asynchronous"), (True, "semi-synchronous")):
            times = sorted(found[is_semi_sync])
            rows.append((f"a commit, {word}, ms: p50, p95", f"{times[len(times) // 2]:.2f}, {times[len(times) * 95 // 100]:.2f}"))
        bench.end()
        print("| what | found |\n| --- | ---: |")
        for row in rows:
            print(f"| {row[0]} | {row[1]} |")


main(sys.argv[1])
