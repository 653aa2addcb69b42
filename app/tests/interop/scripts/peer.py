"""peer.py TORRENT FOLDER ADDRESS:PORT UPLOAD_LIMIT

A libtorrent peer that downloads TORRENT into FOLDER, or seeds what is there. Every line on stdout is a JSON object:
{"state", "done", "uploaded"} when one of them changed, {"block": [piece, block]} for each block it sent.
"""
import json
import sys
import time

import libtorrent as lt

torrent, folder, address, limit = sys.argv[1:]
category = lt.alert_category
session = lt.session({
    "listen_interfaces": address,
    "outgoing_interfaces": address.rsplit(":", 1)[0],
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "allow_multiple_connections_per_ip": True,
    "upload_rate_limit": int(limit),
    "alert_mask": category.error | category.status | category.upload | category.connect | category.tracker,
    "alert_queue_size": 100_000,
})
# By default libtorrent's limits leave out local peers: put every address into the global class alone.
everyone = lt.ip_filter()
everyone.add_rule("0.0.0.0", "255.255.255.255", 1 << session.global_peer_class_id)
session.set_peer_class_filter(everyone)

params = lt.load_torrent_file(torrent)
params.save_path = folder
params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
params.flags |= lt.torrent_flags.disable_pex | lt.torrent_flags.disable_dht | lt.torrent_flags.disable_lsd
handle = session.add_torrent(params)


def say(what):
    print(json.dumps(what), flush=True)


last = None
while True:
    status = handle.status()
    now = (str(status.state), status.is_seeding, status.total_payload_upload)
    if now != last:
        say({"state": now[0], "done": now[1], "uploaded": now[2]})
        last = now
    for alert in session.pop_alerts():
        if isinstance(alert, lt.block_uploaded_alert):
            say({"block": [alert.piece_index, alert.block_index]})
        elif not isinstance(alert, lt.state_update_alert):
            print(alert.message(), file=sys.stderr, flush=True)
    time.sleep(0.05)
