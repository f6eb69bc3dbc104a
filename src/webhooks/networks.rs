//! The networks that webhooks reach: the public internet, and what the operator allows.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Networks that are not globally routable, or that no receiver of webhooks is in (IANA's registry of special-purpose
/// addresses, RFC 6890; multicast).
const SPECIAL_V4: [Ipv4Net; 15] = [
    v4(0, 0, 0, 0, 8),       // this network
    v4(10, 0, 0, 0, 8),      // private
    v4(100, 64, 0, 0, 10),   // carrier-grade NAT
    v4(127, 0, 0, 0, 8),     // loopback
    v4(169, 254, 0, 0, 16),  // link-local; metadata of cloud machines
    v4(172, 16, 0, 0, 12),   // private
    v4(192, 0, 0, 0, 24),    // protocol assignments
    v4(192, 0, 2, 0, 24),    // documentation
    v4(192, 88, 99, 0, 24),  // 6to4 relays
    v4(192, 168, 0, 0, 16),  // private
    v4(198, 18, 0, 0, 15),   // benchmarks
    v4(198, 51, 100, 0, 24), // documentation
    v4(203, 0, 113, 0, 24),  // documentation
    v4(224, 0, 0, 0, 4),     // multicast
    v4(240, 0, 0, 0, 4),     // reserved; broadcast
];

/// The only global unicast addresses that IANA assigns. Loopback, link-local, unique local, IPv4-mapped and NAT64
/// addresses lie outside of it.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0], 3);

/// The exceptions within [`GLOBAL_V6`].
const SPECIAL_V6: [Ipv6Net; 4] = [
    v6([0x2001, 0, 0], 23), // protocol assignments, such as Teredo, which embeds IPv4 addresses
    v6([0x2001, 0xdb8, 0], 32), // documentation
    v6([0x2002, 0, 0], 16), // 6to4, which embeds IPv4 addresses
    v6([0x3fff, 0, 0], 20), // documentation
];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(head: [u16; 3], prefix: u8) -> Ipv6Net {
    let [a, b, c] = head;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// Returns whether an address belongs to the public internet.
pub(super) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !SPECIAL_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => {
            GLOBAL_V6.contains(&address)
                && !SPECIAL_V6.iter().any(|network| network.contains(&address))
        }
    }
}

/// The networks of `WEBHOOK_ALLOWED_NETWORKS`, which webhooks reach although they are not public.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedNetworks(Vec<IpNet>);

impl AllowedNetworks {
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl FromStr for AllowedNetworks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let network = |item: &str| {
            let network = item.parse().or_else(|_| item.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| {
                format!("{item:?} is not a network; write networks as 10.0.0.0/8,fd00::/8")
            })
        };
        items.map(network).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for AllowedNetworks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&networks.join(","))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn global(address: &str) -> bool {
        is_global(address.parse().expect(address))
    }

    #[test]
    fn each_special_network_is_refused_from_its_first_to_its_last_address() {
        for (first, last, before, after) in [
            ("0.0.0.0", "0.255.255.255", None, Some("1.0.0.0")),
            ("10.0.0.0", "10.255.255.255", Some("9.255.255.255"), Some("11.0.0.0")),
            ("100.64.0.0", "100.127.255.255", Some("100.63.255.255"), Some("100.128.0.0")),
            ("127.0.0.0", "127.255.255.255", Some("126.255.255.255"), Some("128.0.0.0")),
            ("169.254.0.0", "169.254.255.255", Some("169.253.255.255"), Some("169.255.0.0")),
            ("172.16.0.0", "172.31.255.255", Some("172.15.255.255"), Some("172.32.0.0")),
            ("192.0.0.0", "192.0.0.255", Some("191.255.255.255"), Some("192.0.1.0")),
            ("192.0.2.0", "192.0.2.255", Some("192.0.1.255"), Some("192.0.3.0")),
            ("192.88.99.0", "192.88.99.255", Some("192.88.98.255"), Some("192.88.100.0")),
            ("192.168.0.0", "192.168.255.255", Some("192.167.255.255"), Some("192.169.0.0")),
            ("198.18.0.0", "198.19.255.255", Some("198.17.255.255"), Some("198.20.0.0")),
            ("198.51.100.0", "198.51.100.255", Some("198.51.99.255"), Some("198.51.101.0")),
            ("203.0.113.0", "203.0.113.255", Some("203.0.112.255"), Some("203.0.114.0")),
            ("224.0.0.0", "255.255.255.255", Some("223.255.255.255"), None),
            ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", None, Some("2001:200::")),
            (
                "2001:db8::",
                "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
                Some("2001:db7:ffff::"),
                Some("2001:db9::"),
            ),
            (
                "2002::",
                "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                Some("2001:ffff::"),
                Some("2003::"),
            ),
            (
                "3fff::",
                "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
                Some("3ffe:ffff::"),
                Some("3fff:1000::"),
            ),
            // Everything outside of 2000::/3.
            ("::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, Some("2000::")),
            ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
        ] {
            assert!(!global(first), "{first}");
            assert!(!global(last), "{last}");
            assert!(before.is_none_or(global), "before {first}");
            assert!(after.is_none_or(global), "after {last}");
        }
    }

    #[test]
    fn addresses_that_stand_for_an_ipv4_address_or_a_link_are_refused() {
        for address in [
            "::ffff:8.8.8.8",     // IPv4-mapped
            "::8.8.8.8",          // IPv4-compatible
            "64:ff9b::8.8.8.8",   // NAT64
            "64:ff9b:1::8.8.8.8", // local NAT64
            "2002:808:808::1",    // 6to4
            "2001:0:808:808::1",  // Teredo
            "::ffff:0:8.8.8.8",   // SIIT
            "fd00::1",            // unique local
            "fe80::1",            // link-local
            "fec0::1",            // site-local
            "ff02::1",            // multicast
            "100::1",             // discarded
            "5f00::1",            // segment routing
            "::1",
            "::",
        ] {
            assert!(!global(address), "{address}");
        }
    }

    #[test]
    fn public_addresses_are_global() {
        for address in ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450::1"] {
            assert!(global(address), "{address}");
        }
    }

    #[test]
    fn a_list_of_networks_is_read_and_shown() {
        let networks: AllowedNetworks = " 10.0.0.0/8, fd00::/8,127.0.0.1,".parse().unwrap();
        assert_eq!(networks.to_string(), "10.0.0.0/8,fd00::/8,127.0.0.1/32");
        assert!(networks.contains("10.1.2.3".parse().unwrap()));
        assert!(networks.contains("127.0.0.1".parse().unwrap()));
        assert!(!networks.contains("127.0.0.2".parse().unwrap()));
        assert!(!networks.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert_eq!("".parse(), Ok(AllowedNetworks::default()));
        for wrong in ["10.0.0.0/33", "localhost", "10.0.0.0/8;fd00::/8", "10.0.0"] {
            let error = wrong.parse::<AllowedNetworks>().unwrap_err();
            assert!(error.contains(wrong) && error.contains("10.0.0.0/8"), "{error}");
        }
    }

    proptest! {
        /// The standard library's stable predicates know most special addresses: none of them is global here.
        #[test]
        fn no_address_that_the_standard_library_calls_special_is_global(bits: u32, wide: u128) {
            let v4 = Ipv4Addr::from(bits);
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
                || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified();
            prop_assert!(!(special && is_global(v4.into())), "{v4}");
            prop_assert!(!is_global(v4.to_ipv6_mapped().into()));
            prop_assert!(!is_global(v4.to_ipv6_compatible().into()));
            let v6 = Ipv6Addr::from(wide);
            let special = v6.is_loopback() || v6.is_unspecified() || v6.is_multicast()
                || v6.is_unique_local() || v6.is_unicast_link_local();
            prop_assert!(!(special && is_global(v6.into())), "{v6}");
        }
    }
}
