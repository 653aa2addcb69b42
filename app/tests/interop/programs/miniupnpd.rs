//! miniupnpd: what lets peers in on most home routers, by UPnP, NAT-PMP and PCP.

use std::{fs, process::Command};

use anyhow::{Result, ensure};

use crate::world::{GATEWAY, INSIDE, Process, Router, World, wait_until};

/// What it speaks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Speaks {
    /// NAT-PMP and PCP.
    Datagrams,
    /// UPnP.
    Upnp,
}

/// miniupnpd on a router.
pub(crate) struct Miniupnpd<'a> {
    router: &'a Router<'a>,
    process: Process,
}

impl<'a> Miniupnpd<'a> {
    /// Starts it.
    pub(crate) fn start(world: &World, router: &'a Router<'a>, speaks: Speaks) -> Result<Self> {
        let folder = world.folder("miniupnpd")?;
        let yes_or_no = |yes| if yes { "yes" } else { "no" };
        let (datagrams, upnp) = (matches!(speaks, Speaks::Datagrams), matches!(speaks, Speaks::Upnp));
        let config = format!(
            "ext_ifname=wan\nlistening_ip=lan\nhttp_port=5000\nenable_natpmp={}\nenable_upnp={}\nipv6_disable=yes\n\
             secure_mode=yes\nmin_lifetime=5\nuuid=3c5b2a10-0000-4000-8000-000000000077\n\
             allow 1024-65535 {INSIDE}/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n",
            yes_or_no(datagrams),
            yes_or_no(upnp)
        );
        let (file, pid) = (folder.join("miniupnpd.conf"), folder.join("pid"));
        fs::write(&file, config)?;
        // In /usr/sbin, which is not on everybody's path.
        let mut command = Command::new("sh");
        let path = "PATH=$PATH:/usr/sbin:/sbin exec miniupnpd \"$@\"";
        command.args(["-c", path, "sh", "-d", "-f"]).arg(&file).arg("-P").arg(&pid);
        let mut daemon = Self { process: router.inner.at(|| world.start("miniupnpd", &mut command))?, router };
        let ready = match speaks {
            Speaks::Datagrams => "Listening for NAT-PMP/PCP traffic",
            Speaks::Upnp => "HTTP listening on port",
        };
        wait_until(&format!("miniupnpd listens at {GATEWAY}"), || {
            daemon.process.still_running()?;
            Ok(daemon.log()?.contains(ready))
        })?;
        Ok(daemon)
    }

    /// What it has said.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(self.process.stdout()? + &self.process.stderr()?)
    }

    /// Where the router leads what comes from outside, as `nft` prints it.
    pub(crate) fn mappings(&self) -> Result<Vec<String>> {
        let list = "PATH=$PATH:/usr/sbin:/sbin nft list chain inet filter prerouting_miniupnpd";
        let listed = self.router.inner.at(|| Ok(Command::new("sh").args(["-c", list]).output()?))?;
        ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        Ok(listed.lines().filter(|line| line.contains("dnat")).map(|line| line.trim().to_owned()).collect())
    }
}
