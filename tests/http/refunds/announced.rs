//! Announcements of refunds, and the facts that their events need.

use payonce_testing::TestServer;

use crate::refunds::concurrent::{PATIENT, crowd};

/// Copies announcements, which the server deletes.
const COPY: &str = "CREATE TABLE heard (id bigint, place bigint, execution_id uuid);
    CREATE FUNCTION hear() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO heard
        SELECT NEW.id, place, execution_id FROM unnest(NEW.execution_ids) WITH ORDINALITY AS e(execution_id, place);
        RETURN NULL;
    END $$;
    CREATE TRIGGER hearing AFTER INSERT ON announcements FOR EACH ROW EXECUTE FUNCTION hear()";

#[tokio::test]
async fn concurrent_refunds_are_announced_in_the_order_in_which_they_were_decided() {
    for shape in [&["--max-batch", "1", "--committers", "8"][..], &["--committers", "2"]] {
        let server = TestServer::start_with(&[shape, &PATIENT].concat()).await;
        server.database.execute(COPY).await;
        let payment = server.paid("pay", 1000).await;
        let responses = crowd(&[&server], &payment, 30, 40).await;
        let created = responses.iter().filter(|response| response.status == 201).count();
        assert_eq!(created, 33, "the others are refused");
        let wrong = "SELECT count(*)
            FROM (SELECT row_number() OVER (ORDER BY id, heard.place) AS place, ordinal, refunded_after
                  FROM heard FULL JOIN refunds ON refund_id = execution_id
                  WHERE execution_id <> ALL (SELECT transaction_id FROM payments)) AS refund
            WHERE ordinal IS DISTINCT FROM place OR refunded_after IS DISTINCT FROM 30 * place";
        assert_eq!(server.database.number(wrong).await, 0, "{shape:?}");
        assert_eq!(server.database.number("SELECT count(*) FROM heard").await, 1 + 33);
    }
}

#[tokio::test]
async fn nothing_is_announced_while_events_are_off() {
    let server = TestServer::start_with(&["--events", "off"]).await;
    server.database.execute("DROP TABLE announcements").await;
    let payment = server.paid("pay", 100).await;
    assert_eq!(server.refund(&payment, "back", r#"{"amount": 40}"#).await.status, 201);
    assert_eq!(server.get("/health/ready").await.status, 200);
}
