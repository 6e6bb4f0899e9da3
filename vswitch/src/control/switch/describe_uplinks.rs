//! L2 uplinks as the protocol describes them.

use super::Switch;
use super::live::Detached;
use crate::api::{Uplink, UplinkState};
use crate::bpf::attached_programs;
use crate::control::refusal::Result;

impl Switch {
    /// One L2 uplink.
    pub(super) fn describe_uplink(&self, bridge: &str, name: &str) -> Result<Uplink> {
        let bridge_record = self.desired.bridge(bridge)?;
        let record = bridge_record.uplink(bridge, name)?;
        let live = self.live_bridge(bridge)?.uplinks.get(name);
        let attachment = live.and_then(|live| live.attachment.as_ref().ok());
        let link = self.link_of(bridge, name, record);
        let mut details = Vec::new();
        let state = match live.map(|live| &live.attachment) {
            Some(Ok(_)) if link.as_ref().is_some_and(|link| link.running) => UplinkState::Up,
            Some(Ok(_)) => {
                let up = link.as_ref().is_some_and(|link| link.up);
                details.push(if up { "no carrier" } else { "the interface is down" }.to_owned());
                UplinkState::Down
            }
            Some(Err(Detached::Failed(why))) => {
                details.push(why.clone());
                UplinkState::Failed
            }
            Some(Err(Detached::Missing)) | None => {
                details.push("there is no such interface; it is attached when it appears".to_owned());
                UplinkState::Waiting
            }
        };
        details.extend(attachment.into_iter().flat_map(|attachment| attachment.carry.refused()));
        if let Some(link) = &link {
            if link.name != name {
                details.push(format!("renamed, it was {name}"));
            }
            if link.mtu < bridge_record.mtu {
                details.push(format!("its MTU of {} is smaller than the bridge's {}", link.mtu, bridge_record.mtu));
            }
            if let Ok(programs) = attached_programs(&link.name) {
                let others = programs.iter().filter(|program| !program.name.starts_with("vswitch_"));
                details
                    .extend(others.map(|program| format!("somebody else's program sees its packets, too: {program}")));
            }
        }
        let offloads = attachment.map(|attachment| attachment.entry.device.caps().names()).unwrap_or_default();
        Ok(Uplink {
            name: name.to_owned(),
            bridge: bridge.to_owned(),
            interface: link.as_ref().map(|link| link.name.clone()),
            state,
            carry: record.carry,
            hook: attachment.map(|attachment| attachment.carry.hook()),
            details,
            vlan: record.vlan,
            mac: link.as_ref().and_then(|link| link.mac).map(|mac| crate::wire::MacAddr(mac).to_string()),
            mtu: link.as_ref().map(|link| link.mtu),
            offloads: offloads.into_iter().map(str::to_owned).collect(),
            worker: attachment.and_then(|attachment| attachment.entry.reader).map(usize::from),
        })
    }
}
