"""describe.py FOLDER

Prints what libtorrent reads in each .torrent file of FOLDER: a JSON object {file name: description, or {"refused": why}}.
"""
import json
import os
import sys
import warnings

import libtorrent as lt

# Its replacement in 2.1 says the same and is missing from the older versions.
warnings.simplefilter("ignore", DeprecationWarning)


def describe(path):
    try:
        info = lt.torrent_info(path)
    except RuntimeError as error:
        return {"refused": str(error)}
    hashes, files = info.info_hashes(), info.files()
    root = info.name() + "/" if files.num_files() and files.file_path(0) != info.name() else ""
    return {
        "name": info.name(),
        "length": sum(files.file_size(n) for n in range(files.num_files()) if not is_pad(files, n)),
        "piece_length": info.piece_length(),
        "info_hash": str(hashes.v1) if hashes.has_v1() else None,
        "info_hash_v2": str(hashes.v2) if hashes.has_v2() else None,
        "files": [
            {"path": files.file_path(n).removeprefix(root), "length": files.file_size(n)}
            for n in range(files.num_files())
            if not is_pad(files, n)
        ],
    }


def is_pad(files, index):
    return bool(files.file_flags(index) & lt.file_flags_t.flag_pad_file)


folder = sys.argv[1]
print(json.dumps({name: describe(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}))
