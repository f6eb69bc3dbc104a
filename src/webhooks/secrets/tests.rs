use super::*;

const OLD: &str = "an-old-entry-of-thirty-two-chars";
const NEW: &str = "a-new-entry-with-thirty-two-char";

fn ids() -> (AccountId, EndpointId) {
    (Uuid::from_u128(1).into(), Uuid::from_u128(2).into())
}

fn keyring(list: &str) -> Keyring {
    Keyring::parse(list).unwrap()
}
#[test]
fn a_secret_has_the_form_of_standard_webhooks_and_is_like_no_other() {
    let (one, two) = (Secret::generate().unwrap(), Secret::generate().unwrap());
    let text = one.reveal();
    let encoded = text.strip_prefix("whsec_").unwrap();
    assert_eq!(BASE64_STANDARD.decode(encoded).unwrap(), one.as_bytes());
    assert_eq!(one.as_bytes().len(), 32);
    assert_ne!(one.as_bytes(), two.as_bytes());
}

#[test]
fn a_secret_opens_for_its_endpoint_alone() {
    let (account, endpoint) = ids();
    let secret = Secret::generate().unwrap();
    let sealed = keyring(NEW).seal(account, endpoint, &secret).unwrap();
    let opened = keyring(NEW).open(account, endpoint, &sealed).unwrap();
    assert_eq!(opened.as_bytes(), secret.as_bytes());
    let damaged = OpenError::Damaged(keyring(NEW).newest());
    let other = Uuid::from_u128(3);
    for (account, endpoint) in [(other.into(), endpoint), (account, other.into())] {
        assert_eq!(keyring(NEW).open(account, endpoint, &sealed).unwrap_err(), damaged);
    }
    for place in 0..sealed.bytes.len() {
        let mut changed = sealed.clone();
        changed.bytes[place] ^= 1;
        assert_eq!(keyring(NEW).open(account, endpoint, &changed).unwrap_err(), damaged);
    }
    let empty = Sealed { bytes: Vec::new(), ..sealed };
    assert_eq!(keyring(NEW).open(account, endpoint, &empty).unwrap_err(), damaged);
}

#[test]
fn an_older_entry_still_opens_what_it_sealed_and_the_newest_seals() {
    let (account, endpoint) = ids();
    let secret = Secret::generate().unwrap();
    let sealed = keyring(OLD).seal(account, endpoint, &secret).unwrap();
    let both = keyring(&format!("{NEW}, {OLD}"));
    assert_eq!(both.open(account, endpoint, &sealed).unwrap().as_bytes(), secret.as_bytes());
    let unknown = OpenError::UnknownKey(keyring(OLD).newest());
    assert_eq!(keyring(NEW).open(account, endpoint, &sealed).unwrap_err(), unknown);
    let again = both.seal(account, endpoint, &secret).unwrap();
    assert_eq!(again.to_string().parse(), Ok(again.clone()));
    assert_eq!((again.key_id, both.newest()), (keyring(NEW).newest(), again.key_id));
    assert_eq!(keyring(NEW).open(account, endpoint, &again).unwrap().as_bytes(), secret.as_bytes());
}

#[test]
fn sealing_twice_gives_different_bytes() {
    let (account, endpoint) = ids();
    let secret = Secret::generate().unwrap();
    let sealed = || keyring(NEW).seal(account, endpoint, &secret).unwrap();
    assert_ne!(sealed(), sealed());
}

#[test]
fn the_keys_derived_from_an_entry_never_change() {
    assert_eq!(keyring(NEW).newest().to_string(), "ed7b67b1f4fcbf8e");
    let (account, endpoint) = ids();
    // Encrypted by pyca/cryptography.
    let bytes = "AAECAwQFBgcICQoLrUqtWtRYLFo6BH+okjBf++E+xeP8mR8tbMsZukbNMuHBp35JIiE9u5s5tgxF7+2i";
    let bytes = BASE64_STANDARD.decode(bytes).unwrap();
    let sealed = Sealed { key_id: keyring(NEW).newest(), bytes };
    let opened = keyring(NEW).open(account, endpoint, &sealed).unwrap();
    assert_eq!(opened.as_bytes(), [7; 32]);
}

#[test]
fn a_weak_or_unreadable_entry_is_refused() {
    let short = &NEW[1..];
    for list in ["", short, &format!("{NEW},"), &format!("{NEW},{short}"), &"é".repeat(40)] {
        let error = Keyring::parse(list).unwrap_err().to_string();
        assert!(error.contains("openssl rand -base64 32"), "{error}");
        assert!(list.is_empty() || !error.contains(short), "{error}");
    }
    assert!(Keyring::parse(&format!(" {NEW} ,\n{OLD}\n")).is_ok());
}

#[test]
fn nothing_shows_in_debug() {
    let secret = Secret::generate().unwrap();
    assert_eq!(format!("{secret:?} {:?}", keyring(NEW)), "Secret(…) Keyring(…)");
}
