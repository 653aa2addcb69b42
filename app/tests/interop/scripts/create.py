"""create.py v1|v2|hybrid|private PIECE_LENGTH OUT.torrent PATH [TRACKER]...

Makes a torrent of PATH with libtorrent (private: v1, with the flag of BEP 27) and prints its v1 info-hash (v2 if it has no other).
"""
import os
import sys

import libtorrent as lt

form, piece_length, out, path, *trackers = sys.argv[1:]
flags = {"v1": lt.create_torrent.v1_only, "private": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}[form]
torrent = lt.create_torrent(lt.list_files(path), int(piece_length), flags)
for tier, url in enumerate(trackers):
    torrent.add_tracker(url, tier)
torrent.set_priv(form == "private")
torrent.set_creator("interop")
torrent.set_creation_date(1_600_000_000)
lt.set_piece_hashes(torrent, os.path.dirname(path))
data = lt.bencode(torrent.generate())
with open(out, "wb") as file:
    file.write(data)
hashes = lt.torrent_info(lt.bdecode(data)).info_hashes()
print(hashes.v1 if hashes.has_v1() else hashes.v2)
