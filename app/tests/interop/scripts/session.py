"""session.py CONFIG

A libtorrent session as the JSON object CONFIG describes it: "address" and "folder"; "torrent" (a file) or "magnet"; what
it may find peers with: "dht" (a list of nodes to begin with), "pex", "lsd", "peers" (a list to dial); how it may reach them:
"encryption" ("require" or "disable"), "transports" (a list of "tcp" and "utp"). Unless "dials" is
false it dials whom it finds. After "patience" seconds a silent peer is gone. With "idle" it downloads next to nothing. Every line on
stdout is a JSON object: {"state", "done", "nodes", "announced"} when one of them changed.
"""
import json
import sys
import time

import libtorrent as lt

config = json.loads(sys.argv[1])


def ways():
    """How peers may be reached."""
    chosen = config.get("transports", ["tcp", "utp"])
    ways = {f"enable_incoming_{name}": name in chosen for name in ("tcp", "utp")}
    ways |= {f"enable_outgoing_{name}": name in chosen and config.get("dials", True) for name in ("tcp", "utp")}
    policy = {"require": lt.enc_policy.forced, "disable": lt.enc_policy.disabled}.get(config.get("encryption"))
    if policy is not None:
        ways |= {"in_enc_policy": int(policy), "out_enc_policy": int(policy), "allowed_enc_level": int(lt.enc_level.rc4)}
    return ways


def settings(address, nodes):
    """A session on loopback: the limits that keep strangers of one network apart would keep our few apart, too."""
    category = lt.alert_category
    return ways() | {
        "listen_interfaces": address,
        "outgoing_interfaces": address.rsplit(":", 1)[0].strip("[]").removeprefix("0.0.0.0"),
        "enable_dht": nodes is not None,
        "dht_bootstrap_nodes": "",
        "dht_restrict_routing_ips": False,
        "dht_restrict_search_ips": False,
        "dht_ignore_dark_internet": False,
        "dht_prefer_verified_node_ids": False,
        "dht_upload_rate_limit": 1_000_000,
        "enable_lsd": bool(config.get("lsd")),
        "enable_upnp": False,
        "enable_natpmp": False,
        "peer_timeout": config.get("patience", 120),
        "allow_multiple_connections_per_ip": True,
        "alert_mask": category.error | category.status | category.connect | category.dht,
    }


session = lt.session(settings(config["address"], config.get("dht")))
everyone = lt.ip_filter()
everyone.add_rule("0.0.0.0", "255.255.255.255", 1 << session.global_peer_class_id)
session.set_peer_class_filter(everyone)

if "torrent" in config:
    params = lt.load_torrent_file(config["torrent"])
else:
    params = lt.parse_magnet_uri(config["magnet"])
params.save_path = config["folder"]
flags = lt.torrent_flags
params.flags &= ~(flags.auto_managed | flags.paused)
for key, flag in ("pex", flags.disable_pex), ("dht", flags.disable_dht), ("lsd", flags.disable_lsd):
    if config.get(key) in (None, False):
        params.flags |= flag
if config.get("idle"):
    params.download_limit = 1_000
handle = session.add_torrent(params)
for peer in config.get("peers", []):
    host, port = peer.rsplit(":", 1)
    handle.connect_peer((host, int(port)))

FEW = 5
last, asked, told = None, None, 0
while True:
    status = handle.status()
    nodes = session.status().dht_nodes
    if nodes < FEW and time.monotonic() > told + 1:
        # Again as long as it knows few: what is told before it listens, or asked of one who does not yet, is lost.
        told = time.monotonic()
        for node in config.get("dht") or []:
            host, port = node.rsplit(":", 1)
            session.add_dht_node((host, int(port)))
    if nodes >= FEW and asked is None:
        handle.force_dht_announce()
        asked = time.monotonic()
    # The announce itself is not told of: it takes a look-up, which is long over by then.
    announced = asked is not None and time.monotonic() > asked + 4
    now = (str(status.state), status.is_seeding, nodes, announced)
    if now != last:
        print(json.dumps(dict(zip(("state", "done", "nodes", "announced"), now))), flush=True)
        last = now
    for alert in session.pop_alerts():
        if not isinstance(alert, lt.state_update_alert):
            print(alert.message(), file=sys.stderr, flush=True)
    time.sleep(0.05)
