"""A mail server for tests: STARTTLS, AUTH PLAIN, and nothing without both. Python's own parser reads the mails.

Usage: mail_server.py PORT DIR USER PASSWORD; DIR has key.pem and certificate.pem, and gets `mails`, one JSON object a
line, and `refused`, a line for each session that was not what the server wants.
"""

import asyncio
import base64
import email
import email.policy
import json
import os
import ssl
import sys

port, directory, user, password = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(os.path.join(directory, "certificate.pem"), os.path.join(directory, "key.pem"))


def append(name, line):
    with open(os.path.join(directory, name), "a") as file:
        file.write(line + "\n")


async def session(reader, writer):
    def say(line):
        writer.write(line.encode() + b"\r\n")

    is_secure = is_known = False
    sender, receivers = None, []
    say("220 localhost ready")
    while line := (await reader.readline()).decode().rstrip("\r\n"):
        verb = line.split(" ")[0].upper()
        if verb == "EHLO":
            say("250-localhost")
            say("250-AUTH LOGIN PLAIN" if is_secure else "250-STARTTLS")
            say("250 8BITMIME")
        elif verb == "STARTTLS" and not is_secure:
            say("220 go on")
            await writer.drain()
            await writer.start_tls(tls)
            is_secure = True
        elif verb == "AUTH" and is_secure:
            given = base64.b64decode(line.split(" ")[2]).decode().split("\0")
            is_known = given == ["", user, password]
            say("235 welcome" if is_known else "535 wrong password")
        elif verb == "MAIL" and is_known:
            sender = line.split(":", 1)[1]
            say("250 ok")
        elif verb == "RCPT" and sender:
            receivers.append(line.split(":", 1)[1])
            say("250 ok")
        elif verb == "DATA" and receivers:
            say("354 go on")
            lines = []
            while (text := await reader.readline()) != b".\r\n":
                lines.append(text)
            parsed = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
            mail = {
                "from": sender,
                "to": receivers,
                "headers": {name: str(value) for name, value in parsed.items()},
                "text": parsed.get_content(),
            }
            append("mails", json.dumps(mail))
            say("250 taken")
        elif verb == "QUIT":
            say("221 bye")
            break
        else:
            append("refused", line)
            say("503 not now")
    writer.close()


async def main():
    async def safely(reader, writer):
        try:
            await session(reader, writer)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError) as error:
            append("refused", type(error).__name__)

    async with await asyncio.start_server(safely, "127.0.0.1", port) as server:
        await server.serve_forever()


asyncio.run(main())
