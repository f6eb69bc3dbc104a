//! README's example runs, and is the one in `examples`.

#[expect(dead_code, reason = "a program of its own")]
#[path = "../examples/greetings.rs"]
mod greetings;

use payonce_testing::TestDatabase;

#[tokio::test]
async fn the_example_greets_once_though_it_submits_twice() {
    let database = TestDatabase::create_empty().await;
    for _run in 1..=2 {
        greetings::run(&database.options).await.unwrap();
    }
    assert_eq!(database.number("SELECT count(*) FROM greetings").await, 1);
    assert_eq!(database.number("SELECT count(*) FROM idempotency_keys").await, 1);
}

#[test]
fn the_example_in_the_readme_is_the_one_that_runs() {
    let readme = include_str!("../README.md");
    let code = readme.split("```no_run\n").nth(1).and_then(|rest| rest.split("```").next());
    assert_eq!(code, Some(include_str!("../examples/greetings.rs")));
}
