use std::net::Ipv4Addr;

use proptest::prelude::*;
use url::Host;

use super::*;

/// Ways to write a loopback address, or to hide one, besides plain names.
pub(in crate::webhooks) const FORBIDDEN_HOSTS: [&str; 40] = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7F.1",
    "0177.0.0.1",
    "017700000001",
    "0177.0x0.1",
    "127.000.000.001",
    "0",
    "0x0",
    "0.0.0.0",
    "127.0.0.1.",
    "127.1.",
    "%31%32%37.0.0.1",
    "127%2e0%2e0%2e1",
    "1２７.0.0.１",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "127.0.0\u{ad}.1",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[fe80::1%25lo]",
    "[::1%25lo]",
    "localhost",
    "LOCALHOST.",
    "loc%61lhost",
    "ｌｏｃａｌｈｏｓｔ",
    "public.test",
];

/// Resolves `public.test` to a public and a loopback address, and other names as the system does: with or without the dot
/// at their end, which some systems don't find in their hosts file.
pub(in crate::webhooks) struct Rebinding;

impl Resolver for Rebinding {
    fn resolve(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        if name == "public.test" {
            let found = ["8.8.8.8", "127.0.0.1"].map(|address| address.parse().unwrap());
            return Box::pin(async move { Ok(found.to_vec()) });
        }
        SystemResolver.resolve(name.trim_end_matches('.').to_owned())
    }
}

/// Resolves every name to the same addresses.
struct Always(&'static [&'static str]);

impl Resolver for Always {
    fn resolve(&self, _: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let found = self.0.iter().map(|address| address.parse().unwrap()).collect();
        Box::pin(async move { Ok(found) })
    }
}

fn guard(allowed: &str, resolver: impl Resolver) -> Guard {
    Guard::new(allowed.parse().unwrap(), resolver)
}

async fn refusal(guard: &Guard, url: &str) -> Refusal {
    guard.check(url).await.expect_err(url)
}

#[tokio::test]
async fn forty_ways_to_write_a_forbidden_address_are_refused() {
    let guard = guard("", Rebinding);
    for host in FORBIDDEN_HOSTS {
        for scheme in ["http", "https"] {
            let refusal = refusal(&guard, &format!("{scheme}://{host}:8080/webhooks")).await;
            let expected =
                matches!(refusal, Refusal::NotPublic | Refusal::NotEncrypted | Refusal::NotAUrl(_));
            assert!(expected, "{scheme}://{host}: {refusal:?}");
        }
    }
}

#[tokio::test]
async fn a_public_host_is_reached_by_https_only() {
    let guard = guard("", Always(&["93.184.216.34", "2606:2800:220:1::1"]));
    for url in [
        "https://example.com",
        "https://example.com:8443/a?b=c",
        "https://bücher.example/",
        "https://93.184.216.34/",
        "https://[2606:2800:220:1::1]/",
    ] {
        guard.check(url).await.expect(url);
        let plain = url.replace("https", "http");
        assert_eq!(refusal(&guard, &plain).await, Refusal::NotEncrypted, "{plain}");
    }
}

#[tokio::test]
async fn allowed_networks_are_reached_by_http_too() {
    let guard = guard("10.0.0.0/8,::1", Always(&["10.1.2.3", "::1"]));
    for url in ["http://receiver", "https://receiver", "http://10.1.2.3/", "http://[::1]:1/"] {
        guard.check(url).await.expect(url);
    }
    for url in ["http://127.0.0.1/", "https://[::ffff:10.1.2.3]/", "https://192.168.0.1/"] {
        assert_eq!(refusal(&guard, url).await, Refusal::NotPublic, "{url}");
    }
}

#[tokio::test]
async fn one_forbidden_address_among_many_is_enough_for_a_refusal() {
    for addresses in [&["8.8.8.8", "10.0.0.1"][..], &["2606:2800:220:1::1", "8.8.8.8", "::1"]] {
        let guard = guard("", Always(addresses));
        assert_eq!(refusal(&guard, "https://example.com/").await, Refusal::NotPublic);
    }
    // An allowed address does not open the others.
    let guard = guard("10.0.0.0/8", Always(&["10.0.0.1", "192.168.0.1"]));
    assert_eq!(refusal(&guard, "http://example.com/").await, Refusal::NotPublic);
}

#[tokio::test]
async fn a_host_without_an_address_is_refused() {
    let guard = guard("0.0.0.0/0", Always(&[]));
    assert_eq!(refusal(&guard, "https://example.com/").await, Refusal::Unresolvable);
}

#[tokio::test]
async fn a_resolver_that_hangs_is_given_up() {
    struct Hanging;
    impl Resolver for Hanging {
        fn resolve(&self, _: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
            Box::pin(std::future::pending())
        }
    }
    let guard = Guard { lookup_timeout: Duration::from_millis(50), ..guard("", Hanging) };
    // Also by those that wait for a permit.
    let checks = (0..=LOOKUPS_AT_ONCE).map(|_| guard.check("https://example.com/"));
    for found in futures_util::future::join_all(checks).await {
        assert_eq!(found, Err(Refusal::Unresolvable));
    }
}

#[test]
fn each_refused_form_of_a_url_has_its_reason() {
    let long = format!("https://example.com/{}", "a".repeat(MAX_URL_LENGTH));
    // Each of these characters takes six after encoding.
    let wide = format!("https://example.com/{}", "é".repeat(MAX_URL_LENGTH / 4));
    for (url, expected) in [
        (long.as_str(), Refusal::TooLong),
        (wide.as_str(), Refusal::TooLong),
        ("https://user@example.com/", Refusal::UserInfo),
        ("https://:password@example.com/", Refusal::UserInfo),
        ("https://example.com@127.0.0.1/", Refusal::UserInfo),
        ("https://example.com:443@127.0.0.1/", Refusal::UserInfo),
        ("https://example.com/#", Refusal::Fragment),
        ("https://127.0.0.1#@example.com/", Refusal::Fragment),
        ("ftp://example.com/", Refusal::Scheme),
        ("file:///etc/passwd", Refusal::Scheme),
        ("gopher://127.0.0.1/", Refusal::Scheme),
        ("mailto:a@example.com", Refusal::Scheme),
        (" https://example.com/", Refusal::Invisible),
        ("https://exam\tple.com/", Refusal::Invisible),
        ("ht\ntps://example.com/", Refusal::Invisible),
        ("https://example.com/a b", Refusal::Invisible),
    ] {
        assert_eq!(parse(url), Err(expected), "{url:?}");
    }
    for url in ["", "example.com", "/webhooks", "//example.com/", "https://", "https://a:99999/"] {
        assert!(matches!(parse(url), Err(Refusal::NotAUrl(_))), "{url:?}");
    }
    let longest = format!("https://example.com/{}", "a".repeat(MAX_URL_LENGTH - 20));
    assert_eq!(parse(&longest).unwrap().as_str().len(), MAX_URL_LENGTH);
}

proptest! {
    /// The client connects to the host that was checked.
    #[test]
    fn the_client_reads_the_same_host(host in "[0-9a-fxA-FX.:%\\[\\]-]{1,20}|\\PC{1,12}") {
        if let Ok(url) = parse(&format!("https://{host}/{host}?{host}")) {
            let uri: Uri = url.as_str().parse().unwrap();
            prop_assert_eq!(uri.host(), url.host_str());
            prop_assert_eq!(uri.port_u16(), url.port());
            prop_assert_eq!(uri.scheme_str(), Some("https"));
        }
    }

    #[test]
    fn every_way_to_write_an_ipv4_address_leads_to_the_same_check(bits: u32, form in 0..6) {
        let address = Ipv4Addr::from(bits);
        let [a, b, c, d] = address.octets();
        let host = match form {
            0 => format!("{bits}"),
            1 => format!("{bits:#x}"),
            2 => format!("0{bits:o}"),
            3 => format!("{a:#x}.0{b:o}.{}", u16::from_be_bytes([c, d])),
            4 => format!("{a}.{}", bits & 0x00ff_ffff),
            _ => format!("{a}.{b}.{c}.{d}."),
        };
        let url = parse(&format!("https://{host}/")).unwrap();
        prop_assert_eq!(url.host(), Some(Host::Ipv4(address)), "{}", host);
    }
}
