//! Makes Cargo rebuild when a migration is added: otherwise it watches only the files that existed at the last build.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
