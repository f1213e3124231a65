"""Machines made of namespaces: two hosts with understudy and a shop, an edge with HAProxy, a customer, and the network between them.

Each machine has its own network, mounts, processes and name; the filesystem is shared, except for /srv, which is each
host's own. A machine lives as long as its first process: to end that one ends all others and all mounts, as
a loss of power does. Everything ends with the process that made it, however that ends. Needs root.

    lab.py PROGRAM DIR [S3_SERVER [WATCHERS]]   makes and founds everything for another program; see `hold`. The repository
                                                is a directory, or in what S3_SERVER (moto_server) keeps on a machine of
                                                its own. WATCHERS machines more (0 to 2) only watch"""
import json, os, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path

import customer

HERE = Path(__file__).resolve().parent
ADDRESSES = {"web-1": "10.77.0.1", "web-2": "10.77.0.2", "edge": "10.77.0.10", "customer": "10.77.0.20", "storage": "10.77.0.30", "watch-1": "10.77.0.41", "watch-2": "10.77.0.42"}
HOSTS = ["web-1", "web-2"]
WATCHERS = ["watch-1", "watch-2"]
STORE, TREE = "shop", "/srv/shop"
SECONDS_TO_WAIT = 60
S3_PORT = 9000
S3 = {
    "AWS_ENDPOINT_URL": f"http://{ADDRESSES['storage']}:{S3_PORT}",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
}

# What two machines send each other is lost while their pair of addresses is in the set.
CUTS = """
table bridge cuts {
    set pairs { type ipv4_addr . ipv4_addr; }
    chain forward { type filter hook forward priority 0; ip saddr . ip daddr @pairs drop; }
}
"""

# The first process of a machine takes in the processes that lost their parents.
FIRST_PROCESS = """
set -e
hostname "$1"
ip link set lo up
mount --bind "$2" /srv
echo ready
exec env --ignore-signal=CHLD sleep infinity
"""

HAPROXY = """
global
    stats socket {dir}/admin.sock mode 600 level admin
    hard-stop-after 30s

defaults
    mode http
    timeout connect 1s
    retries 1
    timeout client 30s
    timeout server 30s
    load-server-state-from-file local

frontend customers
    bind {address}:80
    default_backend shop

backend shop
    option http-server-close
    server-state-file-name {dir}/shop.state
    http-response add-header X-Understudy-Epoch %[str(shop),map({dir}/shop.map),word(1,/)]
    server origin shop.invalid:9 init-addr last,127.0.0.1
"""

UNDERSTUDY = """
repository = "{repository}"
writer = "{name}"
key_file = "{work}/key"

[standby]
path = "{dir}/standby"

[service]
listen = "{address}:9184"
look_seconds = 1

[[store]]
name = "shop"
path = "/srv/shop"
role = "{role}"
plan = "standard"
customer_url = "http://{edge}/"

[store.upkeep]
prune_hours = 0
verify_hours = 0
drill_hours = 0

[store.member]
address = "{address}:9184"
customers = "{address}:8080"
{member_database}
[store.gate]
listen = "{address}:8080"
upstream = "127.0.0.1:8081"

[[store.service]]
name = "shop"
start = ["{python}", "{dir}/shop.py", "start", "/srv/shop", "8081", "{dir}/shop.pid"{shop_database}]
stop = ["{python}", "{dir}/shop.py", "stop", "/srv/shop", "8081", "{dir}/shop.pid"]
check = ["{python}", "{dir}/shop.py", "check", "/srv/shop", "8081", "{dir}/shop.pid"]

[[store.edge]]
kind = "haproxy"
socket = "{work}/edge/admin.sock"
map = "{work}/edge/shop.map"
state = "{work}/edge/shop.state"
"""

WATCHER = """
repository = "{repository}"
writer = "{name}"
key_file = "{work}/key"

[service]
listen = "{address}:9184"

[[store]]
name = "shop"
role = "watcher"
plan = "private"
customer_url = "http://{edge}/"

[store.member]
address = "{address}:9184"
"""

DATABASE = """
[store.database]
account_file = "{work}/account.cnf"
datadir = "{dir}/database"
directory = "{dir}/supervisor"

[store.database.serve]
listen = "{address}:3306"
socket = "{dir}/mysqld.sock"
memory_mib = 32
"""

ACCOUNTS = """
CREATE USER understudy@'10.77.0.%' IDENTIFIED BY 'replicated';
GRANT RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, CONNECTION ADMIN, SLAVE MONITOR, REPLICATION SLAVE, SELECT ON *.* TO understudy@'10.77.0.%';
CREATE DATABASE shop;
CREATE TABLE shop.orders (id VARCHAR(64) PRIMARY KEY, at DATETIME NOT NULL);
CREATE USER shop@localhost;
GRANT SELECT, INSERT ON shop.* TO shop@localhost;
"""


class Trouble(Exception):
    """What a person should read; no traceback follows."""


def call(*command, **more):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **more)
    if done.returncode:
        raise Trouble(f"{' '.join(str(word) for word in command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def wait_until(what, is_so, seconds=SECONDS_TO_WAIT):
    """Waits, and returns what was waited for."""
    end = time.monotonic() + seconds
    while not (found := is_so()):
        if time.monotonic() > end:
            raise Trouble(f"not within {seconds} s: {what}")
        time.sleep(0.05)
    return found


def children(pid):
    try:
        return [int(child) for child in open(f"/proc/{pid}/task/{pid}/children").read().split()]
    except OSError:
        return []


class Machine:
    """One machine, which can lose its power and start again; its directory stays."""

    def __init__(self, name, work):
        self.name, self.dir, self.outer = name, work / name, None
        (self.dir / "srv").mkdir(parents=True)

    def start(self):
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command += ["sh", "-c", FIRST_PROCESS, "sh", self.name, str(self.dir / "srv")]
        pipe = subprocess.PIPE
        self.outer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)
        if self.outer.stdout.readline() != "ready\n":
            raise Trouble(f"{self.name}: its namespaces cannot be made: {self.outer.stderr.read().strip()}")
        [self.first] = children(self.outer.pid)

    def kill(self):
        """Ends all processes at once."""
        if self.outer:
            try:
                os.kill(self.first, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.outer.communicate()
            self.outer = None

    def inside(self, *command):
        return ["nsenter", "-t", str(self.first), "-n", "-m", "-u", "-p", "--", *map(str, command)]

    def call(self, *command, **more):
        return call(*self.inside(*command), **more)

    def spawn(self, *command, **more):
        return subprocess.Popen(self.inside(*command), stdin=subprocess.DEVNULL, **more)

    def path(self, path):
        """A path of this machine, as others see it."""
        return Path(f"/proc/{self.first}/root") / path.lstrip("/")


class Host(Machine):
    """A machine with understudy."""

    def __init__(self, name, work, program, repository, access, has_database=False):
        super().__init__(name, work)
        self.program, self.daemon, self.supervisor = program, None, None
        (self.dir / "srv/shop").mkdir()
        shutil.copy(HERE / "shop.py", self.dir)
        role = "primary" if name == HOSTS[0] else "standby"
        places = dict(work=work, repository=repository, name=name, dir=self.dir, address=ADDRESSES[name], edge=ADDRESSES["edge"], role=role, python=sys.executable)
        socket, at = f', "{self.dir}/mysqld.sock"', f'database = "{ADDRESSES[name]}:3306"\n'
        more = dict(member_database=at, shop_database=socket) if has_database else dict(member_database="", shop_database="")
        form = WATCHER if name in WATCHERS else UNDERSTUDY
        text = form.format(**places, **more) + (DATABASE.format(**places) if has_database and name in HOSTS else "")
        (self.dir / "understudy.toml").write_text(text)
        kept = {f"XDG_{what}_HOME": f"{self.dir}/{what.lower()}" for what in ("CONFIG", "DATA", "CACHE", "STATE")}
        theirs = {name: value for name, value in os.environ.items() if not name.startswith("UNDERSTUDY_")}
        self.env = {**theirs, **kept, **access, "HOME": str(self.dir), "UNDERSTUDY_CONFIG": f"{self.dir}/understudy.toml"}

    def understudy(self, *arguments):
        """Runs a command of understudy; returns what it printed."""
        return self.call(self.program, *arguments, env=self.env)

    def begin(self, *arguments, **more):
        """Begins a command of understudy."""
        return self.spawn(self.program, *arguments, env=self.env, text=True, **more)

    def start_daemon(self):
        with open(self.dir / "daemon.log", "a") as log:
            self.daemon = self.begin("run", stdout=log, stderr=log)

    def start_database(self):
        with open(self.dir / "database.log", "a") as log:
            self.supervisor = self.begin("database", "run", STORE, stdout=log, stderr=log)

    def sql(self, statements):
        """Runs statements at this host's server, as root does."""
        return self.call("mariadb", "--no-defaults", "-uroot", f"--socket={self.dir}/supervisor/socket", "-BN", input=statements)

    def database(self):
        """What this host's supervisor says of its server."""
        shown = subprocess.run(self.inside(self.program, "database", "status", STORE, "--json"), capture_output=True, env=self.env)
        return (json.loads(shown.stdout or "{}").get("replica") or {}) if self.outer else {}

    def kill(self):
        super().kill()
        for process in (self.daemon, self.supervisor):
            if process:
                process.wait()

    def failover(self):
        """The state of the store's failover, as the daemon tells it; none while it does not answer."""
        for socket in (self.dir / "state/understudy").glob("daemon-*.socket"):
            url = f"http://localhost/api/v1/stores/{STORE}/failover"
            done = subprocess.run(["curl", "-sf", "--max-time", "5", "--unix-socket", socket, url], capture_output=True)
            if done.returncode == 0:
                return json.loads(done.stdout)

    def is_standby(self):
        """Whether this host follows, and would take over if a person asked."""
        state = self.failover() or {}
        return state.get("phase") == "standby" and not state["why_not"]

    def role(self):
        """What this host's gate says about itself; none if it does not answer."""
        url = f"http://{ADDRESSES[self.name]}:8080/.understudy/role"
        done = subprocess.run(self.inside("curl", "-s", "--max-time", "2", url), capture_output=True) if self.outer else None
        return json.loads(done.stdout) if done and done.returncode == 0 else None

    def serves(self):
        return (self.role() or {}).get("mode") == "open"


class Lab:
    """All machines, in a directory that goes when they end."""

    def __init__(self, program, parent=None, s3_server=None, has_database=False, watchers=0):
        tools = {"ip": "iproute2", "haproxy": "haproxy", "nsenter": "util-linux", "curl": "curl"}
        if has_database:
            tools |= {"mariadbd": "mariadb-server-core", "mariadb": "mariadb-client", "mariadb-backup": "mariadb-backup"}
        for tool, package in tools.items():
            if not shutil.which(tool):
                raise Trouble(f"{tool}: it is not installed; apt-get install {package}")
        if os.geteuid() != 0:
            raise Trouble("namespaces and mounts need root: sudo python3 run.py")
        self.work = Path(tempfile.mkdtemp(prefix="two-hosts-", dir=parent))
        self.network = Machine("network", self.work)
        self.s3_server, self.storage = s3_server, Machine("storage", self.work) if s3_server else None
        self.access = S3 if s3_server else {}
        repository = "s3://bucket/stores" if s3_server else self.work / "repository"
        self.has_database = has_database
        self.web = [Host(name, self.work, program, repository, self.access, has_database) for name in HOSTS]
        self.watchers = [Host(name, self.work, program, repository, self.access) for name in WATCHERS[:watchers]]
        self.edge, self.customer = Machine("edge", self.work), Machine("customer", self.work)
        self.orders = self.work / "orders.log"
        self.ordering = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # However often somebody presses Ctrl-C.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for machine in (self.customer, *self.watchers, *self.web, self.edge, self.storage, self.network):
            if machine:
                machine.kill()
        shutil.rmtree(self.work, ignore_errors=True)

    def start(self):
        self.network.start()
        self.switch("link", "add", "switch", "type", "bridge")
        self.switch("link", "set", "switch", "up")
        for machine in (*self.web, *self.watchers, self.edge, self.customer):
            self.power_on(machine)
        self.start_edge()
        if self.storage:
            self.power_on(self.storage)
            self.start_storage()

    def switch(self, *command):
        call("nsenter", "-t", self.network.first, "-n", "ip", *command)

    def cut(self, one, other, is_cut=True):
        """Loses what two machines send each other, until they are joined again."""
        one, other = ADDRESSES[one], ADDRESSES[other]
        pairs = f"{{ {one} . {other}, {other} . {one} }}"
        self.filter("add" if is_cut else "delete", "element", "bridge", "cuts", "pairs", pairs)

    def filter(self, *command, **more):
        call("nsenter", "-t", self.network.first, "-n", "nft", *command, **more)

    def power_on(self, machine):
        machine.start()
        self.switch("link", "add", machine.name, "type", "veth", "peer", "name", "eth0", "netns", machine.first)
        self.switch("link", "set", machine.name, "master", "switch", "up")
        machine.call("ip", "addr", "add", f"{ADDRESSES[machine.name]}/24", "dev", "eth0")
        machine.call("ip", "link", "set", "eth0", "up")

    def unplug(self, machine):
        self.switch("link", "delete", machine.name)

    def power_off(self, machine):
        """Unplugs the network first: nobody hears of the end of what was connected."""
        self.unplug(machine)
        machine.kill()

    def start_storage(self):
        log = open(self.storage.dir / "log", "a")
        address = ADDRESSES["storage"]
        self.storage.spawn(self.s3_server, "-H", address, "-p", S3_PORT, cwd=self.storage.dir, stdout=log, stderr=log)
        put = self.storage.inside("curl", "-sf", "-X", "PUT", f"http://{address}:{S3_PORT}/bucket")
        wait_until("there is a bucket", lambda: subprocess.run(put, capture_output=True).returncode == 0)

    def start_edge(self):
        (self.edge.dir / "shop.map").touch()
        configuration = self.edge.dir / "haproxy.cfg"
        configuration.write_text(HAPROXY.format(dir=self.edge.dir, address=ADDRESSES["edge"]))
        log = open(self.edge.dir / "log", "a")
        self.edge.spawn("haproxy", "-W", "-f", configuration, stdout=log, stderr=log)
        wait_until("HAProxy has its socket", (self.edge.dir / "admin.sock").exists)

    def found(self, entries=0):
        """Makes the shop and its first snapshot on web-1, and both hosts members. No daemon runs yet."""
        first, second = self.web
        tree = first.path(TREE)
        shutil.copy(HERE / "shop.py", tree)
        for at in range(entries):
            if at % 1000 == 0:
                files = tree / f"media/{at // 1000:04}"
                files.mkdir(parents=True)
            (files / f"{at:07}.txt").write_text(f"{at}\n")
        if not self.storage:
            (self.work / "repository").mkdir()
        first.understudy("key", "new", self.work / "key")
        if self.has_database:
            self.found_database(first)
        first.understudy("resync", STORE)
        first.understudy("member", "found", STORE)
        if self.has_database:
            first.understudy("database", "seed", STORE)
            second.start_database()
        self.invite(second)
        for watcher in self.watchers:
            self.invite(watcher, "--watch-only")

    def leave_to_watchers(self, more=""):
        """Has both hosts fail over without a person; `more` is added to their configurations."""
        for host in self.web:
            path = host.dir / "understudy.toml"
            path.write_text(path.read_text().replace('plan = "standard"', 'plan = "private"') + more)

    def invite(self, host, *more):
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        invitation = self.web[0].begin("member", "invite", STORE, *more, **pipes)
        host.understudy("member", "join", invitation.stdout.readline().strip())
        if invitation.wait():
            raise Trouble(f"member invite: {invitation.stderr.read().strip()}")

    def found_database(self, first):
        """Makes an empty database, opens it, and makes what the shop and the standby need in it."""
        account = self.work / "account.cnf"
        account.write_text("[client]\nuser = understudy\npassword = replicated\n")
        account.chmod(0o600)
        first.understudy("database", "found", STORE)
        first.start_database()
        wait_until("its supervisor answers", (first.dir / "supervisor/orders.socket").exists)
        first.understudy("database", "promote", STORE)
        first.sql(ACCOUNTS)

    def start_daemons(self):
        for host in (*self.web, *self.watchers):
            host.start_daemon()
        wait_until("web-1 serves", self.web[0].serves)
        wait_until("customers reach web-1", lambda: self.answers())
        wait_until("web-2 follows", lambda: self.web[1].is_standby())
        if self.has_database:
            wait_until("web-2 replicates", lambda: self.web[1].database().get("state") == "following")

    def answers(self):
        done = subprocess.run(self.customer.inside("curl", "-sf", "--max-time", "2", f"http://{ADDRESSES['edge']}/"), capture_output=True)
        return done.returncode == 0

    def start_customer(self, every=0.4):
        """Starts a customer; `every` is the time between the orders of one of its four connections."""
        self.orders.touch()
        command = (sys.executable, HERE / "customer.py", f"http://{ADDRESSES['edge']}", self.orders, "--every", every)
        self.ordering = self.customer.spawn(*command, stdout=subprocess.DEVNULL)
        self.wait_for_orders()

    def wait_for_orders(self, count=10):
        """Waits until so many more orders are acknowledged."""
        before = len(self.acked())
        wait_until(f"{count} more orders are acknowledged", lambda: len(self.acked()) >= before + count)

    def acked(self):
        return [order for order in customer.read(self.orders) if order.acked]

    def stop_customer(self):
        os.kill(children(self.ordering.pid)[0], signal.SIGTERM)
        self.ordering.wait()

    def primary(self):
        """The one host that serves."""
        serving = [host for host in self.web if host.serves()]
        if len(serving) != 1:
            raise Trouble(f"{len(serving)} hosts serve: {' '.join(host.name for host in serving)}")
        return serving[0]

    def missing(self):
        """Ids of the acknowledged orders that the primary does not have."""
        return customer.missing(customer.read(self.orders), self.primary().path(TREE))

    def missing_rows(self):
        """Ids of the acknowledged orders that the primary's database does not have."""
        rows = set(self.primary().sql("SELECT id FROM shop.orders;").split())
        return [order.id for order in self.acked() if order.id not in rows]

    def stranded(self, host):
        """The records of what only former primaries have."""
        return [row["record"] for row in json.loads(host.understudy("stranded", "list", STORE, "--json"))]

    def state(self):
        machines = (self.network, self.edge, self.customer, *self.web, *self.watchers)
        return {"work": str(self.work), "access": self.access, "first": {machine.name: machine.first for machine in machines if machine.outer}}


def hold(program, parent, s3_server=None, watchers="0"):
    """Keeps machines for another program, until its end of standard input is closed. Each line is one of `on HOST`,
    `off HOST`, `cut MACHINE MACHINE` and `join MACHINE MACHINE`."""
    with Lab(program, parent, s3_server, watchers=int(watchers)) as lab:
        lab.start()
        lab.filter("-f", "-", input=CUTS)
        lab.found()
        print(json.dumps(lab.state()), flush=True)
        for line in sys.stdin:
            action, *names = line.split()
            if action in ("cut", "join"):
                lab.cut(*names, is_cut=action == "cut")
            else:
                [host] = [host for host in (*lab.web, *lab.watchers) if host.name == names[0]]
                lab.power_on(host) if action == "on" else lab.power_off(host)
            print(json.dumps(lab.state()), flush=True)


if __name__ == "__main__":
    hold(*sys.argv[1:])
