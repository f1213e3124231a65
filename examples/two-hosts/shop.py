#!/usr/bin/env python3
"""A web shop of a few dozen lines, in place of a real one.

    shop.py start TREE PORT STATE [SOCKET]   starts the shop that is in TREE; its process is kept in the file STATE
    shop.py stop TREE PORT STATE [SOCKET]
    shop.py check TREE PORT STATE [SOCKET]   ends with 0 where it runs, and with 3 where it does not

`POST /order` with {"id": …} writes a row of `shop.orders` in the MariaDB at SOCKET, or where there is none, of
TREE/orders.csv; then TREE/orders/ID.json. The id in the answer says that both are on the disk. As the code of a real
shop, the program that serves is the copy in the tree."""
import json, os, re, signal, socket, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STOPPED = 3


def write(path, mode, text):
    with open(path, mode) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


class Database:
    """Rows of MariaDB, written by its own client, which is started again when it has ended."""

    def __init__(self, socket):
        self.command = ["mariadb", "--no-defaults", "-ushop", f"--socket={socket}", "--batch", "--skip-column-names", "--unbuffered", "--skip-reconnect"]
        self.client = None

    def add(self, id):
        """Commits a row. What the client prints after it says that the server has committed."""
        if not self.client or self.client.poll() is not None:
            pipe = subprocess.PIPE
            self.client = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, bufsize=1)
        self.client.stdin.write(f"INSERT INTO shop.orders VALUES ('{id}', NOW()); SELECT '{id}';\n")
        if self.client.stdout.readline().strip() != id:
            self.client.kill()
            self.client.wait()
            raise OSError("the database does not take the order")


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    tree = database = None
    rows = threading.Lock()

    def do_GET(self):
        self.answer(200, {"orders": len(os.listdir(f"{self.tree}/orders"))})

    def do_POST(self):
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/order" or not re.fullmatch(r"[0-9A-Za-z-]{1,64}", order["id"]):
            return self.answer(400, {"error": "POST /order with an id of letters, digits and hyphens"})
        try:
            with self.rows:
                self.add_row(order["id"])
            write(f"{self.tree}/orders/{order['id']}.json", "x", json.dumps(order) + "\n")
        except OSError as error:
            return self.answer(500, {"error": str(error)})
        self.answer(200, {"id": order["id"]})

    def add_row(self, id):
        if self.database:
            self.database.add(id)
        else:
            write(f"{self.tree}/orders.csv", "a", f"{id},{time.time():.3f}\n")

    def answer(self, status, value):
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(tree, port, database):
    os.makedirs(f"{tree}/orders", exist_ok=True)
    Shop.tree, Shop.database = tree, Database(database) if database else None
    server = ThreadingHTTPServer(("127.0.0.1", port), Shop)
    server.daemon_threads = True
    server.serve_forever()


def process(state):
    """The process that STATE names; None if it has ended."""
    try:
        pid = int(open(state).read())
        return pid if b"\0serve\0" in open(f"/proc/{pid}/cmdline", "rb").read() else None
    except (OSError, ValueError):
        return None


def is_listening(port):
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def start(tree, port, state, *database):
    if process(state):
        return
    command = [sys.executable, f"{tree}/shop.py", "serve", tree, str(port), state, *database]
    with open(f"{state}.log", "a") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True)
    write(state, "w", str(child.pid))


def stop(state):
    while pid := process(state):
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        time.sleep(0.02)


def main(action, tree, port, state, *database):
    if action == "serve":
        serve(tree, int(port), *database or [None])
    elif action == "start":
        start(tree, int(port), state, *database)
    elif action == "stop":
        stop(state)
    elif not process(state):
        sys.exit(STOPPED)
    elif not is_listening(int(port)):
        sys.exit("it has begun, and does not answer yet")


if __name__ == "__main__":
    main(*sys.argv[1:])
