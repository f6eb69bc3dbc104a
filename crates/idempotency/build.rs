//! Rebuilds the crate when a migration is added: the compiler watches those that exist.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
