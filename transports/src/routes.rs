//! Which router leads into the world: read from the system's table of routes, where the system shows it as a file (Linux).

use std::{fs, net::Ipv4Addr};

/// The table of IPv4 routes.
const TABLE: &str = "/proc/net/route";
/// The flags of a route that is up and leads to a router.
const UP_TO_ROUTER: u32 = 3;

/// The router for what is sent from this address of ours: that of the default route of the device that has the address.
pub(crate) fn gateway(from: Ipv4Addr) -> Option<Ipv4Addr> {
    let table = fs::read_to_string(TABLE).ok()?;
    let ours = if_addrs::get_if_addrs().ok()?.into_iter().filter(|there| there.ip() == from);
    let devices: Vec<_> = ours.map(|there| there.name).collect();
    find(&table, |device| devices.iter().any(|ours| ours == device))
}

/// The router of the default route with the smallest metric, of those by devices that `is_ours` is true for.
fn find(table: &str, is_ours: impl Fn(&str) -> bool) -> Option<Ipv4Addr> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace();
        let device = columns.next().filter(|device| is_ours(device))?;
        let mut hex = || u32::from_str_radix(columns.next()?, 16).ok();
        let (destination, gateway, flags) = (hex()?, hex()?, hex()?);
        let metric: u32 = columns.nth(2)?.parse().ok()?;
        let mask = u32::from_str_radix(columns.next()?, 16).ok()?;
        let is_default = destination == 0 && mask == 0 && flags & UP_TO_ROUTER == UP_TO_ROUTER && gateway != 0;
        // The kernel prints addresses as numbers of this machine, of bytes in the order of the network.
        is_default.then(|| (metric, device, Ipv4Addr::from(gateway.to_ne_bytes())))
    });
    routes.min_by_key(|(metric, ..)| *metric).map(|(.., gateway)| gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn the_default_route_of_the_device_is_found() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                     eth0\t00000000\t0100A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
                     eth0\t00000000\t0200A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                     eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n\
                     tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000080\t0\t0\t0\n\
                     broken\n";
        let by = |wanted: &str| find(table, |device| device == wanted).map(|gateway| gateway.to_string());
        assert_eq!(by("eth0").as_deref(), Some("192.168.0.2"));
        assert_eq!(by("wlan0").as_deref(), Some("192.168.2.1"));
        assert_eq!([by("tun0"), by("broken"), by("eth1")], [None, None, None]);
    }

    #[test]
    fn loopback_has_no_router() {
        assert_eq!(gateway(Ipv4Addr::LOCALHOST), None);
    }
}
