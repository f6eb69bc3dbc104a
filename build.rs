//! Has Cargo build again when a migration is added: what it compiles in names only the files that were there.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
