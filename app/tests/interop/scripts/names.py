"""names.py HOST NAME=ADDRESS...

A name server at HOST, port 53: it knows these names, each of which may have several addresses, and no others (RFC 1035).
First it prints {"ready": true}, then {"asked": NAME} for every question.
"""
import ipaddress
import json
import socket
import struct
import sys

A, AAAA, IN, NO_SUCH_NAME = 1, 28, 1, 3
known = {}
for entry in sys.argv[2:]:
    name, address = entry.split("=", 1)
    known.setdefault(name, []).append(ipaddress.ip_address(address))


def answer(question):
    """The whole answer to a datagram with one question."""
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1:at + 1 + question[at]].decode())
        at += 1 + question[at]
    kind, _ = struct.unpack(">HH", question[at + 1:at + 5])
    name = ".".join(labels).lower()
    print(json.dumps({"asked": name}), flush=True)
    found = [host.packed for host in known.get(name, []) if (host.version == 4) == (kind == A) and kind in (A, AAAA)]
    flags = 0x8180 | (0 if name in known else NO_SUCH_NAME)
    head = question[:2] + struct.pack(">HHHHH", flags, 1, len(found), 0, 0)
    records = (b"\xc0\x0c" + struct.pack(">HHIH", kind, IN, 1, len(host)) + host for host in found)
    return head + question[12:at + 5] + b"".join(records)


server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
print(json.dumps({"ready": True}), flush=True)
while True:
    datagram, whom = server.recvfrom(4096)
    server.sendto(answer(datagram), whom)
