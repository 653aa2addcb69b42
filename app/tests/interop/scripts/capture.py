"""capture.py

Prints each TCP and UDP packet of the network namespace's interfaces, as a JSON object a line: {"proto", "from", "to",
"by": the interface, "speaks_pex": it offers or sends ut_pex (BEP 11)}. First it prints {"ready": true}, after SIGTERM what is still waiting.
Packets that came too fast to be captured are told of as one from "lost 0" to "lost COUNT", which no test allows.
"""
import ipaddress
import json
import select
import signal
import socket
import struct

ETH_P_ALL, TCP, UDP = 3, 6, 17
# What <linux/if_packet.h> and <asm/socket.h> call them; Python does not.
SOL_PACKET, PACKET_STATISTICS, SO_RCVBUFFORCE = 263, 6, 33
# A whole transfer has room while it waits to be printed.
ROOM = 64 << 20

ends, wake = socket.socketpair()
wake.setblocking(False)
signal.set_wakeup_fd(wake.fileno())
signal.signal(signal.SIGTERM, lambda *_: None)
tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
tap.setblocking(False)
print(json.dumps({"ready": True}), flush=True)


def tell(packet, interface):
    version = packet[0] >> 4
    if version == 4:
        proto, header = packet[9], (packet[0] & 15) * 4
        source, target = packet[12:16], packet[16:20]
    elif version == 6:
        proto, header = packet[6], 40
        source, target = packet[8:24], packet[24:40]
    else:
        return
    if proto not in (TCP, UDP):
        return
    ports = struct.unpack(">HH", packet[header:header + 4])
    whence, whither = (f"{ipaddress.ip_address(host)} {port}" for host, port in zip((source, target), ports))
    print(json.dumps({
        "proto": "tcp" if proto == TCP else "udp", "from": whence, "to": whither, "by": interface,
        "speaks_pex": b"ut_pex" in packet[header:],
    }), flush=True)


while True:
    ready, _, _ = select.select([tap, ends], [], [])
    try:
        while True:
            packet, where = tap.recvfrom(65536)
            tell(packet, where[0])
    except BlockingIOError:
        pass
    if ends in ready:
        break
_, dropped = struct.unpack("II", tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
if dropped:
    print(json.dumps({"proto": "lost", "from": "lost 0", "to": f"lost {min(dropped, 65535)}", "by": "lost",
                      "speaks_pex": False}))
