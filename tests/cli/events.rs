//! `payonce events tail`: operators follow the feed.

use std::{
    fs::{self, File},
    process::{Child, Command},
};

use payonce_testing::{
    TestDatabase, TestServer,
    binary::{Folder, signal},
    feed::fill,
    wait::until,
};
use serde_json::Value;

/// A command that writes into files while it runs.
struct Running {
    child: Child,
    folder: Folder,
}

impl Running {
    fn start(name: &str, command: &mut Command) -> Self {
        let folder = Folder::new(name);
        let file = |name: &str| File::create(folder.0.join(name)).unwrap();
        let child = command.stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        Self { child, folder }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.0.join(name)).unwrap()
    }

    /// The positions of the events that it has printed as JSON.
    fn positions(&self) -> Vec<i64> {
        let printed = self.read("stdout");
        let events = printed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.map(|event| event["position"].as_i64().unwrap()).collect()
    }

    async fn until_it_printed(&self, last: i64) {
        until("the events are printed", async || self.positions().last() == Some(&last)).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn events_are_listed_for_people_and_as_they_are_for_programs() {
    let server = TestServer::start().await;
    fill(&server.database, &[20, 1]).await;
    let database = &server.database;
    let tail = |more: &[&str]| {
        let (code, stdout, stderr) =
            database.run(&[&["events", "tail", "--no-follow"], more].concat());
        assert_eq!((code, stderr.as_str()), (0, ""));
        stdout
    };
    let table = tail(&["--after", "18"]);
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["POSITION", "TIME", "TYPE", "AMOUNT", "PAYMENT"]);
    let payment = "00000000-0000-0000-0000-0000000000";
    for (line, [position, event_type, amount]) in lines[1..].iter().zip([
        ["19", "payment.created", "0.19"],
        ["20", "refund.created", "0.20"],
        ["21", "payment.created", "0.21"],
    ]) {
        let id = format!("{payment}{position}");
        let [shown, _, what, how_much, currency, of] = line[..] else { panic!("{line:?}") };
        assert_eq!([shown, what, how_much], [position, event_type, amount]);
        assert_eq!([currency, of], ["USD", &id]);
    }
    assert_eq!(lines.len(), 4);

    let page = server.get("/events").await.body;
    let json = tail(&["--after", "0", "--json"]);
    assert_eq!(json.lines().count(), 21);
    assert!(page.contains(&json.trim_end().replace('\n', ",")), "{json}");
    assert_eq!(tail(&["--json"]).lines().next(), json.lines().nth(11), "the last ten");
    let refunds = tail(&["--after", "0", "--json", "--type", "refund.created"]);
    assert_eq!(refunds.lines().count(), 2);
    let both = ["--after", "0", "--type", "refund.created", "--type", "payment.created", "--json"];
    assert_eq!(tail(&both), json);
}

#[tokio::test]
async fn deleted_events_are_reported_and_a_position_beyond_the_end_is_an_error() {
    let database = TestDatabase::create().await;
    fill(&database, &[3, 2]).await;
    database.execute("DELETE FROM event_runs WHERE first_position = 1").await;
    let tail = ["events", "tail", "--no-follow", "--json", "--after"];
    let (code, stdout, stderr) = database.run(&[&tail[..], &["1"]].concat());
    assert_eq!((code, stdout.lines().count()), (0, 2), "{stderr}");
    assert!(stderr.contains("from 2 to 3 were deleted"), "{stderr}");
    let (code, stdout, stderr) = database.run(&[&tail[..], &["6"]].concat());
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("ends at position 5, before 6"), "{stderr}");
    for wrong in [&["--after", "-1"][..], &["--type", "payment.crated"]] {
        let (code, _, stderr) = database.run(&[&["events", "tail", "--no-follow"], wrong].concat());
        assert_eq!(code, 2, "{stderr}");
    }
}

#[tokio::test]
async fn tail_follows_the_feed_through_a_lost_connection_until_it_is_interrupted() {
    let database = TestDatabase::create().await;
    fill(&database, &[2]).await;
    let arguments = ["events", "tail", "--json", "--after", "0"];
    let mut tail = Running::start("tail", &mut database.payonce(&arguments));
    tail.until_it_printed(2).await;
    fill(&database, &[1, 1]).await;
    tail.until_it_printed(4).await;
    let others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    until("its connection is lost", async || {
        database.number(others).await;
        tail.read("stderr").contains("waiting for the database")
    })
    .await;
    fill(&database, &[3]).await;
    tail.until_it_printed(7).await;
    assert!(tail.read("stderr").contains("connected to the database again"));
    assert_eq!(tail.positions(), (1..=7).collect::<Vec<_>>());
    signal(&mut tail.child, "INT");
    assert!(tail.child.wait().unwrap().success());
}
