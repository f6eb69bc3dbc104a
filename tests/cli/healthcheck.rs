//! `payonce healthcheck`: the exit code says whether the server is ready.

use payonce_testing::{
    TestDatabase,
    binary::{Serve, payonce, run},
    proxy::Proxy,
};

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_fails_with_the_reason_unless_the_server_is_ready() {
    let database = TestDatabase::create().await;
    let proxy = Proxy::start(&database.options).await;
    // A readiness check takes half of the deadline if the database does not respond.
    let mut serve = Serve::start(&proxy.through(&database.options), &[("REQUEST_DEADLINE", "8s")]);
    let port = serve.address.port().to_string();
    let check = |host: &str| {
        let settings = [("PORT", port.as_str()), ("HOST", host), ("REQUEST_DEADLINE", "8s")];
        run(payonce(&["healthcheck"]).envs(settings))
    };
    for host in ["127.0.0.1", "0.0.0.0", "localhost"] {
        assert_eq!(check(host).0, 0, "{host}");
    }
    let assert_not = |why: &str| {
        let (code, _, stderr) = check("127.0.0.1");
        assert!(code == 1 && stderr.contains(why), "{why}: {stderr}");
    };
    database.execute("UPDATE _sqlx_migrations SET success = false").await;
    assert_not("not ready: HTTP/1.1 503");
    database.execute("UPDATE _sqlx_migrations SET success = true").await;
    assert_eq!(check("127.0.0.1").0, 0);
    proxy.redirect(&database.options.clone().port(1)).await;
    proxy.cut_all();
    assert_not("not ready: HTTP/1.1 503");
    serve.signal("STOP");
    assert_not(&format!("no response from 127.0.0.1:{port} within 5s"));
    serve.signal("KILL");
    serve.wait();
    assert_not("can't reach 127.0.0.1");
}
