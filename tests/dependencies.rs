//! The dependencies of payonce and of its tests obey `deny.toml`. This is the part of `cargo deny check` that needs
//! neither a network nor cargo-deny.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::process::Command;

use serde_json::Value;

fn output(command: &mut Command) -> String {
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// All packages of Cargo.lock that are built on this machine, except the workspace's own.
fn packages() -> Vec<Value> {
    let rustc = output(Command::new("rustc").arg("-vV"));
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let metadata = output(Command::new(env!("CARGO")).args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--offline",
        "--filter-platform",
        host,
    ]));
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let mut packages = metadata["packages"].as_array().unwrap().clone();
    let own = metadata["workspace_members"].as_array().unwrap();
    packages.retain(|package| !own.contains(&package["id"]));
    assert!(packages.len() > 100, "{}", packages.len());
    packages
}

/// A list in deny.toml, one item a line.
fn listed(name: &str) -> Vec<String> {
    let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).unwrap();
    let (_, list) = file.split_once(&format!("\n{name} = [\n")).expect(name);
    let (list, _) = list.split_once(']').unwrap();
    let items = list.lines().map(|line| line.trim().trim_end_matches(',').trim_matches('"'));
    items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// Checks that the allowed licences satisfy an SPDX expression. `AND` binds tighter than `OR`, which older crates write as
/// a slash. Parentheses occur around `OR` only.
fn is_satisfied(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ");
    if let Some((before, rest)) = expression.split_once('(') {
        let (inner, after) = rest.split_once(')').expect("closed parentheses");
        // The result of the inner expression takes its place.
        let value = if is_satisfied(inner, allowed) { &allowed[0] } else { "none" };
        return is_satisfied(&format!("{before}{value}{after}"), allowed);
    }
    expression.split(" OR ").any(|all| {
        all.split(" AND ").all(|licence| allowed.iter().any(|allowed| allowed == licence.trim()))
    })
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let allowed = listed("allow");
    for package in packages() {
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(is_satisfied(licence, &allowed), "{}: {licence}", package["name"]);
    }
}

#[test]
fn a_licence_that_is_not_allowed_is_refused_in_any_expression() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned()];
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("MIT AND ISC", true),
        ("(MIT OR GPL-3.0) AND ISC", true),
        ("(MIT OR ISC) AND GPL-3.0", false),
        ("GPL-3.0 AND (MIT OR ISC) OR ISC", true),
        ("MIT WITH GPL-3.0-exception", false),
    ] {
        assert_eq!(is_satisfied(expression, &allowed), met, "{expression}");
    }
}

#[test]
fn no_dependency_is_banned_and_all_come_from_crates_io() {
    let (banned, sources) = (listed("deny"), listed("allow-registry"));
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        assert!(!banned.iter().any(|banned| banned == name), "{name} is banned in deny.toml");
        let source = package["source"].as_str().unwrap_or("a folder");
        let registry = source.strip_prefix("registry+").unwrap_or(source);
        assert!(sources.iter().any(|allowed| allowed == registry), "{name}: {source}");
    }
}
