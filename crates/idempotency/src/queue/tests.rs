use tokio::sync::oneshot::Receiver;

use super::{request::tests::request, *};
use crate::Response;

fn queue(limit: usize, account_limit: usize) -> Queue {
    Queue::new((limit, account_limit), Arc::new(()))
}

/// Joins without a seat, so that the request stays when the test goes on.
#[track_caller]
fn join(queue: &Queue, account: u128, key: &str) -> Receiver<Reply> {
    let (request, caller) = request(account, key);
    queue.join(request).unwrap().answered();
    caller
}

fn refusal(queue: &Queue, account: u128, key: &str) -> Option<Failure> {
    queue.join(request(account, key).0).err()
}

fn record(job: &Job) -> Record {
    job.leader.record(Response::new(204, ""), chrono::Utc::now(), None)
}

const PATIENCE: Patience = Patience { lock: Duration::ZERO, margin: Duration::ZERO };

#[test]
fn a_duplicate_follows_and_hears_the_outcome_of_its_leader() {
    let queue = queue(1, 1);
    let (mut first, mut duplicate) = (join(&queue, 0, "k"), join(&queue, 0, "k"));
    let job = queue.take(10).pop().unwrap();
    assert!(queue.take(10).is_empty(), "the key is in the queue once");
    let record = record(&job);
    queue.executed(job, record);
    assert!(matches!(first.try_recv().unwrap(), Ok(Outcome::New { .. })));
    assert!(matches!(duplicate.try_recv().unwrap(), Ok(Outcome::Replay { .. })));
    assert_eq!(queue.keys(), 0);
}

#[test]
fn limits_count_keys_and_duplicates_separately() {
    let queue = queue(2, 1);
    let _callers: Vec<_> = (0..=DUPLICATES_PER_KEY).map(|_| join(&queue, 0, "k")).collect();
    assert_eq!(refusal(&queue, 0, "k"), Some(Failure::ShareExceeded), "one more duplicate");
    assert_eq!(refusal(&queue, 0, "other"), Some(Failure::ShareExceeded), "one more key");
    let _other = join(&queue, 1, "k");
    assert_eq!(refusal(&queue, 2, "k"), Some(Failure::Overloaded), "a third key");
}

#[test]
fn the_place_of_a_caller_that_leaves_is_free_and_its_duplicate_leads() {
    let queue = queue(1, 1);
    let seat = queue.join(request(0, "k").0).unwrap();
    let _duplicate = join(&queue, 0, "k");
    assert_eq!(seat.leave(), Stage::Waiting(Obstacle::NoDatabase));
    assert_eq!(queue.take(10).len(), 1, "the duplicate leads");

    let queue = self::queue(1, 1);
    drop(queue.join(request(0, "k").0).unwrap());
    assert_eq!(refusal(&queue, 0, "other"), None);
}

#[test]
fn a_caller_that_leaves_learns_how_far_its_execution_has_come() {
    let queue = queue(1, 1);
    let seat = queue.join(request(0, "k").0).unwrap();
    let (begun, late) = queue.begin(queue.take(1));
    assert_eq!((begun.len(), late.len()), (1, 0));
    assert_eq!(seat.leave(), Stage::Begun);

    let queue = self::queue(1, 1);
    let seat = queue.join(request(0, "k").0).unwrap();
    let (mut begun, _) = queue.begin(queue.take(1));
    begun[0].obstacle = Obstacle::Locked;
    queue.rolled_back(&begun);
    assert_eq!(seat.leave(), Stage::Waiting(Obstacle::Locked));
}

#[test]
fn a_command_that_may_be_committed_is_never_reported_as_waiting() {
    let queue = queue(1, 1);
    let seat = queue.join(request(0, "k").0).unwrap();
    let (mut begun, _) = queue.begin(queue.take(1));
    queue.put_in_doubt(&mut begun[0]);
    queue.rolled_back(&begun);
    assert_eq!(seat.leave(), Stage::Begun);
}

#[test]
fn a_key_in_doubt_fails_as_unknown_whatever_the_failure() {
    let queue = queue(1, 1);
    let mut caller = join(&queue, 0, "k");
    let mut job = queue.take(1).pop().unwrap();
    queue.put_in_doubt(&mut job);
    queue.fail(job, &Failure::OutOfResources);
    assert_eq!(caller.try_recv().unwrap(), Err(Failure::OutcomeUnknown));
}

#[test]
fn a_caller_waits_for_a_lock_only_so_long_unless_it_may_be_its_own() {
    for (obstacle, reply) in [
        (Obstacle::KeyInFlight, Some(Ok(Outcome::InFlight))),
        (Obstacle::Locked, Some(Err(Failure::Locked))),
        (Obstacle::Conflict, None),
        (Obstacle::NoDatabase, None),
    ] {
        let queue = queue(1, 1);
        let mut caller = join(&queue, 0, "k");
        let mut job = queue.take(1).pop().unwrap();
        job.obstacle = obstacle;
        let waits = queue.relead(job, PATIENCE);
        assert_eq!(waits.is_none(), reply.is_some(), "{obstacle:?}");
        assert_eq!(caller.try_recv().ok(), reply, "{obstacle:?}");
    }
    let queue = queue(1, 1);
    let _caller = join(&queue, 0, "k");
    let mut job = queue.take(1).pop().unwrap();
    (job.obstacle, job.losses) = (Obstacle::KeyInFlight, 1);
    assert!(queue.relead(job, PATIENCE).is_some(), "the lock may be its own");
}

#[test]
fn a_key_whose_callers_are_gone_leaves_the_queue() {
    let queue = queue(1, 1);
    drop((join(&queue, 0, "k"), join(&queue, 0, "k")));
    let job = queue.take(1).pop().unwrap();
    assert!(queue.relead(job, PATIENCE).is_none());
    assert_eq!(queue.keys(), 0);
    queue.close();
    assert!(queue.is_drained());
    assert_eq!(refusal(&queue, 0, "k"), Some(Failure::Overloaded), "it is closed");
}
