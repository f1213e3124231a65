#!/usr/bin/env python3
"""Makes a store-like tree, and what it is four hours later. Deterministic: one seed, one tree.

    store_tree.py make DIR [SCALE]     100,000 files in 30,000 directories at scale 1
    store_tree.py later DIR            the same tree after four hours of trade
    store_tree.py million DIR          1,000,101 entries: 990,000 small files in 10,100 directories
"""
import os
import random
import sqlite3
import sys

WORDS = "public function return array string this product customer order price quote item class extends implements if foreach null true config model block helper view template catalog checkout".split()


def code(rng, size):
    out = ["<?php\n"]
    length = 6
    while length < size:
        line = "    " * rng.randrange(1, 4) + " ".join(rng.choice(WORDS) for _ in range(rng.randrange(3, 10)))
        line += "(%d);\n" % rng.randrange(100000)
        out.append(line)
        length += len(line)
    return "".join(out).encode()[:size]


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def row(rng, number):
    name = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(12))
    return "INSERT INTO sales_order VALUES (%d,'%s','%s@example.com',%d.%02d,'2026-%02d-%02d');\n" % (
        number, name, name, rng.randrange(1000), rng.randrange(100), rng.randrange(1, 13), rng.randrange(1, 29))


def make(root, scale):
    rng = random.Random(1)
    os.makedirs(root)
    dirs = []
    for module in range(int(30000 * scale) // 30):
        for below in range(30):
            path = "%s/vendor/m%03d/p%04d/%s%02d" % (root, module // 20, module, rng.choice(["Model", "Block", "etc", "view"]), below)
            dirs.append(path)
            os.makedirs(path)
    for number in range(int(99000 * scale)):
        size = min(int(rng.lognormvariate(7.6, 1.1)) + 20, 200000)  # median 2 KB
        write("%s/f%06d.php" % (dirs[number % len(dirs)], number), code(rng, size))
    for number in range(int(1000 * scale)):
        if number % 100 == 0:
            media = "%s/pub/media/c%02d" % (root, number // 100)
            os.makedirs(media)
        write("%s/i%04d.jpg" % (media, number), rng.randbytes(rng.randrange(50_000, 300_000)))
    os.makedirs(root + "/var/log")
    with open(root + "/var/dump.sql", "w") as dump:
        length = number = 0
        while length < 512_000_000 * scale:
            block = "".join(row(rng, number + i) for i in range(2000))
            dump.write(block * 4)
            length += 4 * len(block)
            number += 2000
    with open(root + "/var/log/access.log", "w") as log:
        for number in range(int(200_000 * scale)):
            log.write("10.0.0.%d - - GET /p/%d HTTP/1.1 200 %d\n" % (rng.randrange(256), rng.randrange(9999), rng.randrange(99999)))
    base = sqlite3.connect(root + "/var/session.sqlite")
    base.execute("CREATE TABLE session (id INTEGER PRIMARY KEY, data TEXT)")
    base.executemany("INSERT INTO session VALUES (?,?)", ((i, "%032x" % rng.getrandbits(128)) for i in range(int(100_000 * scale))))
    base.commit()
    base.close()


def later(root):
    rng = random.Random(2)
    files = sorted(os.path.join(d, f) for d, _, names in os.walk(root + "/vendor") for f in names)
    for path in rng.sample(files, len(files) // 200):
        write(path, code(rng, os.path.getsize(path) + rng.randrange(200)))
    for path in rng.sample(files, len(files) // 500):
        if os.path.exists(path):
            os.unlink(path)
    new = root + "/vendor/new"
    os.makedirs(new)
    for number in range(len(files) // 200):
        write("%s/n%05d.php" % (new, number), code(rng, rng.randrange(200, 8000)))
    os.makedirs(root + "/pub/media/new")
    for number in range(max(1, len(files) // 5000)):
        write("%s/pub/media/new/i%03d.jpg" % (root, number), rng.randbytes(rng.randrange(50_000, 300_000)))
    with open(root + "/var/dump.sql", "r+b") as dump:
        size = os.path.getsize(root + "/var/dump.sql")
        for _ in range(60):
            dump.seek(rng.randrange(size - 100))
            dump.write(b"9" * rng.randrange(1, 60))
        dump.seek(0, 2)
        dump.write("".join(row(rng, 10**8 + i) for i in range(2000)).encode())
    with open(root + "/var/log/access.log", "a") as log:
        for _ in range(5000):
            log.write("10.0.0.%d - - GET /p/%d HTTP/1.1 200 %d\n" % (rng.randrange(256), rng.randrange(9999), rng.randrange(99999)))
    base = sqlite3.connect(root + "/var/session.sqlite")
    base.executemany("UPDATE session SET data=? WHERE id=?", (("%032x" % rng.getrandbits(128), rng.randrange(100_000)) for _ in range(500)))
    base.commit()
    base.close()
    os.rename(files[0].rsplit("/", 2)[0], root + "/vendor/renamed")


def million(root):
    for number in range(10000):
        path = "%s/a%03d/b%02d" % (root, number // 100, number % 100)
        os.makedirs(path)
        for file in range(99):
            write("%s/f%02d.php" % (path, file), ("<?php // %d %d\n" % (number, file) + "return array();\n" * (file % 40)).encode())


if __name__ == "__main__":
    if len(sys.argv) >= 3 and sys.argv[1] == "make":
        make(sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 1.0)
    elif len(sys.argv) == 3 and sys.argv[1] == "later":
        later(sys.argv[2])
    elif len(sys.argv) == 3 and sys.argv[1] == "million":
        million(sys.argv[2])
    else:
        sys.exit(__doc__)
