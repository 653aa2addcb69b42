"""libtorrent_magnet.py CONFIG, run by a Python that has PyPI's libtorrent.

Opens a session and a magnet link as the JSON object CONFIG says ("address", "folder", "link", "dht": nodes, "peers":
addresses), and prints how many seconds later the metadata was there.
"""
import json
import sys
import time

import libtorrent as lt

config = json.loads(sys.argv[1])
start = time.monotonic()
session = lt.session({
    "listen_interfaces": config["address"],
    "outgoing_interfaces": config["address"].rsplit(":", 1)[0],
    "enable_dht": bool(config["dht"]),
    "dht_bootstrap_nodes": "",
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_ignore_dark_internet": False,
    "dht_prefer_verified_node_ids": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
    "alert_mask": lt.alert_category.status | lt.alert_category.error,
})
for node in config["dht"]:
    host, port = node.rsplit(":", 1)
    session.add_dht_node((host, int(port)))
# A link opened before the first node has answered waits four seconds for the next attempt.
while config["dht"] and not session.status().dht_nodes:
    time.sleep(0.001)
params = lt.parse_magnet_uri(config["link"])
params.save_path = config["folder"]
params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
handle = session.add_torrent(params)
for peer in config["peers"]:
    host, port = peer.rsplit(":", 1)
    handle.connect_peer((host, int(port)))
while True:
    session.wait_for_alert(1_000)
    for alert in session.pop_alerts():
        if isinstance(alert, lt.metadata_received_alert):
            print(time.monotonic() - start, flush=True)
            sys.exit()
