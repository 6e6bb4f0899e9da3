//! What the programs count, per CPU, in the kernel.

macro_rules! counters {
    ($( $(#[$doc:meta])* $variant:ident => $name:literal, )*) => {
        /// What the programs count; the same order as `enum counter` in `maps.h`, from 1 on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Counter {
            /// Never counted: the packet is the host's.
            Passed,
            $( $(#[$doc])* $variant, )*
        }

        impl Counter {
            /// All that are counted.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// The name under which it is shown.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    Self::Passed => "passed",
                    $( Self::$variant => $name, )*
                }
            }
        }
    };
}

counters! {
    // Taken, by rule.
    /// Taken: to a published port.
    Published => "published",
    /// Taken: to a port of a translated flow.
    Translated => "translated",
    /// Taken: to a tunnel's port.
    Vxlan => "vxlan",
    /// Taken: an answer to an echo request of a translated flow.
    EchoReply => "echo-reply",
    /// Taken: an ICMP error about a packet that the switch sent.
    IcmpError => "icmp-error",
    /// Taken: a later fragment of a packet that was taken.
    LaterFragment => "later-fragment",
    /// Taken: to a network behind the switch, to which others route.
    Routed => "routed",
    /// Taken: a fragment of a packet that may be the host's, until that is known.
    Undecided => "undecided",
    // The way out.
    /// Sent by the switch through the carry TAP.
    Carried => "carried",
    /// Given back by the switch: such a fragment, which is the host's.
    GivenBack => "given-back",
    /// Dropped: the switch wrote something to the carry TAP that is not IP.
    NotIp => "not-ip",
    /// Dropped: nobody said where this interface's packets go.
    NoTarget => "no-target",
    /// Dropped: the receive queue has no AF_XDP socket. The host must not see such packets: it knows nothing of their
    /// connections, and would reset them.
    NoSocket => "no-socket",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_source() {
        let source = include_str!("maps.h");
        let body = source.split_once("enum counter {").unwrap().1.split_once('}').unwrap().0;
        let names: Vec<String> = body
            .lines()
            .filter_map(|line| line.trim().split(',').next())
            .filter(|name| !name.is_empty())
            .map(|name| name.to_lowercase().replace('_', "-"))
            .collect();
        let expected =
            [&["passed"], &*Counter::ALL.iter().map(|c| c.name()).collect::<Vec<_>>(), &["counters"]].concat();
        assert_eq!(names, expected);
    }
}
