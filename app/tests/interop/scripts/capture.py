"""capture.py

Prints each TCP and UDP packet of the network namespace's interfaces, as a JSON object a line: {"proto", "from", "to",
"speaks_pex": it offers or sends ut_pex (BEP 11)}. First it prints {"ready": true}.
"""
import ipaddress
import json
import socket
import struct

ETH_P_ALL, TCP, UDP = 3, 6, 17

tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
print(json.dumps({"ready": True}), flush=True)
while True:
    packet = tap.recv(65536)
    version = packet[0] >> 4
    if version == 4:
        proto, header = packet[9], (packet[0] & 15) * 4
        source, target = packet[12:16], packet[16:20]
    elif version == 6:
        proto, header = packet[6], 40
        source, target = packet[8:24], packet[24:40]
    else:
        continue
    if proto not in (TCP, UDP):
        continue
    ports = struct.unpack(">HH", packet[header:header + 4])
    ends = [f"{ipaddress.ip_address(host)} {port}" for host, port in zip((source, target), ports)]
    print(json.dumps({
        "proto": "tcp" if proto == TCP else "udp", "from": ends[0], "to": ends[1],
        "speaks_pex": b"ut_pex" in packet[header:],
    }), flush=True)
