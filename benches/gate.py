#!/usr/bin/env python3
"""The gate beside direct access to nginx, on loopback: `benches/gate.py target/release/understudy`.

Needs nginx and wrk (Debian's packages). For each of three answers (200 bytes, 64 KiB, 1 MiB) wrk asks with 16
connections for SECONDS (5), once directly and once through the gate, and with one connection for the latency. The
gate's memory is its resident set: at the start, and after the load."""
import json, os, re, signal, socket, subprocess, sys, tempfile, time

SECONDS = os.environ.get("SECONDS_EACH", "5")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens at {port}")


def memory(process):
    status = open(f"/proc/{process}/status").read()
    return {key: int(re.search(key + r":\s+(\d+)", status)[1]) // 1024 for key in ("VmRSS", "VmHWM", "VmLck")}


def cpu(process):
    fields = open(f"/proc/{process}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wrk(port, path, connections):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", f"http://127.0.0.1:{port}{path}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        sys.exit(text)
    unit = {"us": 0.001, "ms": 1, "s": 1000}
    latency = {}
    for percent in ("50%", "99%"):
        value, name = re.search(percent + r"\s+([\d.]+)(us|ms|s)\b", text).groups()
        latency[percent] = float(value) * unit[name]
    return float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]), latency


def main(program):
    with tempfile.TemporaryDirectory() as dir:
        os.mkdir(f"{dir}/files")
        for name, size in (("200 B", 200), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)):
            with open(f"{dir}/files/{name.replace(' ', '')}", "wb") as file:
                file.write(b"x" * size)
        upstream, listen = free_port(), free_port()
        with open(f"{dir}/nginx.conf", "w") as file:
            file.write(
                f"user root; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log; daemon off; "
                "events { worker_connections 1024; } http { access_log off; keepalive_requests 100000000; "
                f"client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; "
                f"uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; sendfile on; "
                f"server {{ listen 127.0.0.1:{upstream}; root {dir}/files; }} }}"
            )
        nginx = subprocess.Popen(["nginx", "-c", f"{dir}/nginx.conf", "-p", dir], stderr=subprocess.DEVNULL)
        setup = {
            "store": "bench",
            "gate": {"listen": f"127.0.0.1:{listen}", "upstream": f"127.0.0.1:{upstream}"},
            "services": [],
            "database": {},
            "socket": f"{dir}/run/guard.socket",
            "socket_is_default": True,
        }
        guard = subprocess.Popen([program, "guard"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            guard.stdin.write(json.dumps(setup).encode())
            guard.stdin.close()
            guard.stdout.readline()
            wait_for(upstream)
            feeder = socket.socket(socket.AF_UNIX)
            feeder.connect(setup["socket"])
            feed = {"epoch": 1, "mode": "open", "until_boot_ns": None, "fences_known": 0}
            feeder.sendall(json.dumps({"feed": feed}).encode() + b"\n")
            state = json.loads(feeder.makefile().readline())["state"]
            print("memory is locked:", state["memory_is_locked"], "| at the start, MiB:", memory(guard.pid))
            print("| answer | direct/s | gate/s | direct ms (50 %, 99 %) | gate ms (50 %, 99 %) | gate CPU µs |")
            print("| --- | ---: | ---: | ---: | ---: | ---: |")
            for name in ("200 B", "64 KiB", "1 MiB"):
                path = "/" + name.replace(" ", "")
                direct, through = wrk(upstream, path, 16)[0], 0
                before = cpu(guard.pid)
                through = wrk(listen, path, 16)[0]
                each = (cpu(guard.pid) - before) / (through * float(SECONDS)) * 1e6
                one, other = wrk(upstream, path, 1)[1], wrk(listen, path, 1)[1]
                latency = [f"{l['50%']:.2f}, {l['99%']:.2f}" for l in (one, other)]
                print(f"| {name} | {direct:.0f} | {through:.0f} | {latency[0]} | {latency[1]} | {each:.0f} |")
            print("after the load, MiB:", memory(guard.pid))
        finally:
            guard.kill()
            nginx.send_signal(signal.SIGTERM)
            guard.wait()
            nginx.wait()


main(os.path.abspath(sys.argv[1]))
