//! The schedule alone. They are not in its file because that is also compiled for the check of its
//! interleavings, where they could not run.

use super::schedule::{After, Schedule};

#[test]
fn contexts_take_turns() {
    let schedule = Schedule::new(3);
    for context in [2, 0, 1, 0] {
        schedule.wake(context);
    }
    for _ in 0..3 {
        for context in [2, 0, 1] {
            assert!(schedule.others_wait());
            assert_eq!(schedule.next(), Some(context));
            schedule.done(context, After::Again);
        }
    }
    for _ in 0..3 {
        let context = schedule.next().unwrap();
        schedule.done(context, After::Sleep);
    }
    assert!(!schedule.others_wait());
}

#[test]
fn a_wake_during_a_turn_is_not_lost() {
    let schedule = Schedule::new(1);
    schedule.wake(0);
    assert_eq!(schedule.next(), Some(0));
    assert!(!schedule.others_wait(), "one turn at a time");
    schedule.wake(0);
    assert!(!schedule.others_wait(), "one turn at a time");
    schedule.done(0, After::Sleep);
    assert_eq!(schedule.next(), Some(0));
    schedule.done(0, After::Sleep);
    assert!(!schedule.others_wait());
}

#[test]
fn nobody_sleeps_through_the_end() {
    let schedule = Schedule::new(1);
    std::thread::scope(|scope| {
        let next = scope.spawn(|| schedule.next());
        let wait = scope.spawn(|| schedule.wait_while(|| true));
        schedule.shut_down();
        assert_eq!(next.join().unwrap(), None);
        wait.join().unwrap();
    });
}
