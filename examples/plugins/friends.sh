#!/bin/sh
# Castanet plugin: tells of the peers in a text file, one ADDRESS:PORT a line, whenever a torrent asks for peers.
#
#     castanet get file.torrent --plugin 'friends=sh friends.sh FILE'
#
# The engine writes "type" first, then "torrent", without spaces, so a shell can do without a JSON parser.
file=${1:?which file has the peers?}

# The file's lines as a JSON list; what is no address is left out.
peers() {
    list=
    while read -r peer || [ -n "$peer" ]; do
        case $peer in
            '' | *[!0-9a-fA-F.:\[\]]*) ;;
            *) list="$list,\"$peer\"" ;;
        esac
    done <"$file" && printf '[%s]' "${list#,}"
}

echo '{"type":"hello","version":1,"name":"friends"}'
while IFS= read -r line; do
    torrent=${line#*'"torrent":'}
    torrent=${torrent%%[!0-9]*}
    case $line in
        '{"type":"stop"'*) exit ;;
        '{"type":"sync"'*) # in a simulation: that was all
            id=${line#*'"id":'}
            printf '{"type":"synced","id":%s}\n' "${id%%[!0-9]*}" ;;
        *'"wanted":0,'*) ;; # enough peers: rest
        '{"type":"watch"'* | '{"type":"progress"'*)
            if found=$(peers); then
                printf '{"type":"peers","torrent":%s,"peers":%s}\n' "$torrent" "$found"
            else
                printf '{"type":"error","torrent":%s,"text":"cannot read the file of peers"}\n' "$torrent"
            fi ;;
    esac
done # stdin is closed: the engine is gone
