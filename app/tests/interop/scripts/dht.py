"""dht.py COUNT PORT

COUNT libtorrent sessions as a DHT of their own, at 127.0.0.2, 127.0.0.3, ... and PORT. They begin with the first of
them. Prints {"nodes": [...]} (how many nodes each knows) when that changes.
"""
import json
import sys
import time

import libtorrent as lt

count, port = map(int, sys.argv[1:])
first = f"127.0.0.2:{port}"


def node(at):
    return lt.session({
        "listen_interfaces": f"127.0.0.{at + 2}:{port}",
        "outgoing_interfaces": f"127.0.0.{at + 2}",
        "enable_dht": True,
        "dht_bootstrap_nodes": "" if at == 0 else first,
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


sessions = [node(0)]
time.sleep(0.3)
sessions += [node(at) for at in range(1, count)]
last = None
while True:
    now = [session.status().dht_nodes for session in sessions]
    if now != last:
        print(json.dumps({"nodes": now}), flush=True)
        last = now
    time.sleep(0.2)
