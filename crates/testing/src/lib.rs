//! What tests stand on: real databases, real servers, real HTTP.

#![allow(dead_code, unused_imports, reason = "each binary uses its part")]

pub mod accounts;
pub mod binary;
pub mod client;
pub mod cluster;
pub mod database;
pub mod load;
pub mod proxy;
pub mod retry;
pub mod server;

pub use accounts::Account;
pub use client::PAYMENT;
pub use database::TestDatabase;
pub use server::TestServer;
