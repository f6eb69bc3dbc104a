//! `payonce serve`: the start of a server.

use payonce_testing::{
    TestDatabase,
    binary::{Serve, payonce, run, url},
};
use sqlx::ConnectOptions;

#[tokio::test]
async fn the_start_log_contains_the_important_settings_and_no_secret() {
    let database = TestDatabase::create().await;
    let url = database.options.to_url_lossy();
    // PostgreSQL ignores the password where it asks for none.
    let password = url.password().unwrap_or("se-cret");
    let mut serve = Serve::start(&database.options.clone().password(password), &[]);
    let log = serve.wait_for("/docs");
    let name = database.options.get_database().unwrap();
    for text in
        [&format!("payonce {} listens on http://127.0.0.1:", env!("CARGO_PKG_VERSION")), name]
    {
        assert!(log.contains(text), "{text:?} in {log}");
    }
    assert!(!log.contains(&format!(":{password}@")), "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.ends_with(&format!("open http://{}/docs", serve.address)), "{log}");
    let port = format!(":{}", serve.address.port());
    assert_eq!(log.matches(&port).count(), 2, "where it listens, and where to try it: {log}");
    let migrations = log.lines().filter(|line| line.contains("payonce::db")).count();
    assert_eq!((migrations, log.contains("actix")), (1, false), "{log}");
}

#[tokio::test]
async fn a_port_in_use_is_reported_with_the_setting_that_changes_it() {
    let database = TestDatabase::create().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for (variable, value) in
        [("PORT", address.port().to_string()), ("METRICS_ADDRESS", address.to_string())]
    {
        let mut serve = payonce(&["serve"]);
        serve.env("DATABASE_URL", url(&database.options)).env("PORT", "0").env(variable, value);
        let (code, _, stderr) = run(&mut serve);
        assert!(code == 1 && stderr.contains(&format!("can't listen on {address}")), "{stderr}");
        assert!(stderr.contains(&format!("choose a free port, as in {variable}=")), "{stderr}");
    }
}
