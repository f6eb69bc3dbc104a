//! What tests stand on: real databases, real servers, real HTTP.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod binary;
pub mod client;
pub mod database;
pub mod server;

pub use client::{Answer, PAYMENT};
pub use database::TestDatabase;
pub use server::TestServer;
