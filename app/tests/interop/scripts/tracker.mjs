// tracker.mjs PEERS ADDRESS PORT: npm's bittorrent-tracker over HTTP and UDP. Only its server is loaded: the package's
// command also loads WebRTC, which has to be compiled.
const [peers, address, port] = process.argv.slice(2)
const { default: Server } = await import(`${peers}/node_modules/bittorrent-tracker/server.js`)
const server = new Server({ http: true, udp: true, ws: false, stats: false })
server.on('error', error => { console.error('error', error.message); process.exit(1) })
server.on('warning', error => console.error('warning', error.message))
for (const event of ['start', 'update', 'complete', 'stop']) {
  server.on(event, address => console.log(event, address))
}
server.listen(Number(port), { http: address, udp: address, udp6: '::1' }, () => console.log('listening'))
