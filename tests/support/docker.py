#!/usr/bin/env python3
"""Answers as `docker compose` does about one project, which runs while the file `running` is beside it. Each call
is noted in `calls`."""
import os, sys

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RUNNING = os.path.join(HERE, "running")
with open(os.path.join(HERE, "calls"), "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\n")
verb = sys.argv[4]
if verb == "up":
    open(RUNNING, "w").close()
elif verb in ("stop", "kill") and os.path.exists(RUNNING):
    os.unlink(RUNNING)
elif verb == "ps" and os.path.exists(RUNNING):
    print("0123456789ab")
