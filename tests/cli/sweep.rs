//! `payonce sweep`: expired responses and keys are deleted.

use payonce_testing::TestServer;
use serde_json::json;

#[tokio::test]
async fn sweep_prints_what_it_deleted() {
    let server = TestServer::start().await;
    server.paid("k", 100).await;
    server.database.execute("UPDATE idempotency_responses SET replayable_until = now()").await;
    let (code, stdout, stderr) = server.database.run(&["sweep"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, "1 expired responses, 0 expired keys and 0 expired events deleted\n");
    let swept = server.database.operate(&["sweep", "--json"]);
    assert_eq!(swept, json!({ "responses": 0, "keys": 0, "events": 0 }));
}
