"""dht.py COUNT PORT NETWORK

COUNT libtorrent sessions as a DHT of their own, at NETWORK.2, NETWORK.3, ... (such as 127.0.0) and PORT. Each begins with a few of
the others. Prints {"nodes": [...]} (how many nodes each knows) when that changes.
"""
import json
import sys
import time

import libtorrent as lt

FEW = 5

count, port, network = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


def node(at):
    return lt.session({
        "listen_interfaces": f"{network}.{at + 2}:{port}",
        "outgoing_interfaces": f"{network}.{at + 2}",
        "enable_dht": True,
        "dht_bootstrap_nodes": "",
        "dht_restrict_routing_ips": False,
        "dht_restrict_search_ips": False,
        "dht_ignore_dark_internet": False,
        "dht_prefer_verified_node_ids": False,
        "dht_upload_rate_limit": 1_000_000,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "alert_mask": lt.alert_category.error,
    })


sessions = [node(at) for at in range(count)]
last, told = None, 0
while True:
    now = [session.status().dht_nodes for session in sessions]
    if now != last:
        print(json.dumps({"nodes": now}), flush=True)
        last = now
    if time.monotonic() > told + 1:
        told = time.monotonic()
        # Nodes to begin with as the settings have them are never kept: each is told of a few others instead, and again as
        # long as it knows few, since those may not have listened yet.
        for at, session in enumerate(sessions):
            for step in (1, 2, 5, 11) if now[at] < FEW else ():
                session.add_dht_node((f"{network}.{(at + step) % count + 2}", port))
    time.sleep(0.2)
