#!/usr/bin/env python3
"""Answers as kubectl does about one deployment, whose pods are lines of the file `pods` beside it. Each call is
noted in `calls`. A pod named `stuck` outlives a scaling to 0."""
import json, os, sys

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PODS, SCALE = os.path.join(HERE, "pods"), os.path.join(HERE, "scale")


def read(path, otherwise):
    return open(path).read() if os.path.exists(path) else otherwise


with open(os.path.join(HERE, "calls"), "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\n")
if "scale" in sys.argv:
    count = next(a for a in sys.argv if a.startswith("--replicas=")).partition("=")[2]
    open(SCALE, "w").write(count)
    stuck = [line for line in read(PODS, "").splitlines() if line.startswith("stuck")]
    open(PODS, "w").write("".join(f"shop-{n} True\n" for n in range(int(count))) + "".join(s + "\n" for s in stuck))
elif "--raw" in sys.argv:
    count = int(read(SCALE, "0"))
    print(json.dumps({"spec": {"replicas": count}, "status": {"replicas": count, "selector": "app=shop,tier=web"}}))
else:
    print(read(PODS, ""), end="")
