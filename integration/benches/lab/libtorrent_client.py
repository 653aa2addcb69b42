"""libtorrent_client.py ADDRESS:PORT UPLOAD_LIMIT, run by a Python that has PyPI's libtorrent.

Says "ready", reads "TORRENT<tab>FOLDER" from its input, adds that, and says "complete" once every piece is there.
"""
import sys

import libtorrent as lt

address, limit = sys.argv[1:]
session = lt.session({
    "listen_interfaces": address,
    "outgoing_interfaces": address.rsplit(":", 1)[0],
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
    "upload_rate_limit": int(limit),
    "alert_mask": lt.alert_category.status | lt.alert_category.error,
})
# Its limits leave out local peers unless every address is put into the global class alone.
everyone = lt.ip_filter()
everyone.add_rule("0.0.0.0", "255.255.255.255", 1 << session.global_peer_class_id)
session.set_peer_class_filter(everyone)

print("ready", flush=True)
torrent, folder = sys.stdin.readline().rstrip("\n").split("\t")
params = lt.load_torrent_file(torrent)
params.save_path = folder
params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
params.flags |= lt.torrent_flags.disable_pex | lt.torrent_flags.disable_dht | lt.torrent_flags.disable_lsd
handle = session.add_torrent(params)
said = False
while True:
    session.wait_for_alert(1_000)
    for alert in session.pop_alerts():
        if isinstance(alert, (lt.torrent_finished_alert, lt.torrent_checked_alert, lt.state_changed_alert)):
            if not said and handle.status().is_seeding:
                said = True
                print("complete", flush=True)
        elif "error" in alert.what():
            print(alert.message(), file=sys.stderr, flush=True)
