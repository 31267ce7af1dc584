use super::*;

fn to(topics: &[u32]) -> Destinations {
    Destinations { topics: topics.to_vec(), partitions: Vec::new() }
}

/// Checks an answer for three records of a router that named four topics, with at most two destinations for a record.
#[track_caller]
fn checked(routes: Routes, expected: Result<(), WrongAnswer>) {
    assert_eq!(check(&Answer { routes, rejected: Vec::new() }, 3, 5, 2), expected);
}

#[test]
fn an_answer_that_adds_up_is_taken() {
    checked(Routes::Unchanged, Ok(()));
    checked(Routes::Uniform(to(&[])), Ok(()));
    checked(Routes::Uniform(to(&[0, 4])), Ok(()));
    checked(Routes::Single(to(&[0, 4, 4])), Ok(()));
    checked(Routes::Many { ends: vec![0, 2, 3], to: to(&[1, 2, 1]) }, Ok(()));
    let wished = Destinations { topics: vec![1, 2, 3], partitions: vec![7, ANY_PARTITION, 0] };
    checked(Routes::Single(wished), Ok(()));
}

#[test]
fn an_answer_that_does_not_add_up_is_refused() {
    checked(Routes::Single(to(&[1, 2])), Err(WrongAnswer::Count { found: 2, wanted: 3 }));
    checked(Routes::Single(to(&[1, 5, 1])), Err(WrongAnswer::Topic { number: 5, known: 5 }));
    checked(Routes::Uniform(to(&[5])), Err(WrongAnswer::Topic { number: 5, known: 5 }));
    checked(Routes::Uniform(to(&[1, 1])), Err(WrongAnswer::Twice { record: 0 }));
    checked(Routes::Uniform(to(&[1, 2, 3])), Err(WrongAnswer::TooMany { record: 0, destinations: 3, max: 2 }));
    let partitions = Destinations { topics: vec![1, 2, 3], partitions: vec![1] };
    checked(Routes::Single(partitions), Err(WrongAnswer::Partitions { partitions: 1, topics: 3 }));
    let many = |ends: &[u32], topics: &[u32]| Routes::Many { ends: ends.to_vec(), to: to(topics) };
    checked(many(&[1, 2], &[1, 1]), Err(WrongAnswer::Count { found: 2, wanted: 3 }));
    checked(many(&[2, 1, 3], &[1, 2, 3]), Err(WrongAnswer::Ends { record: 1, end: 1, destinations: 3 }));
    checked(many(&[1, 2, 9], &[1, 2, 3]), Err(WrongAnswer::Ends { record: 2, end: 9, destinations: 3 }));
    checked(many(&[0, 1, 2], &[1, 2, 3]), Err(WrongAnswer::Ends { record: 2, end: 2, destinations: 3 }));
    checked(many(&[0, 2, 3], &[1, 1, 1]), Err(WrongAnswer::Twice { record: 1 }));
    checked(many(&[0, 0, 3], &[1, 2, 3]), Err(WrongAnswer::TooMany { record: 2, destinations: 3, max: 2 }));
}

#[test]
fn only_records_of_the_batch_can_be_rejected() {
    let answer =
        |record| Answer { routes: Routes::Unchanged, rejected: vec![Rejection { record, reason: String::new() }] };
    assert_eq!(check(&answer(2), 3, 1, 1), Ok(()));
    assert_eq!(check(&answer(3), 3, 1, 1), Err(WrongAnswer::Rejection { record: 3, count: 3 }));
}

#[test]
fn the_destinations_of_a_record_can_be_walked() {
    let of = |routes: &Routes, record| routes.of_record(record).map(|to| (to.topic, to.partition)).collect::<Vec<_>>();
    assert_eq!(of(&Routes::Unchanged, 9), [(SENT_TO, None)]);
    assert_eq!(of(&Routes::Uniform(to(&[1, 2])), 9), [(1, None), (2, None)]);
    let wished = Destinations { topics: vec![1, 2, 3], partitions: vec![7, ANY_PARTITION, 0] };
    assert_eq!(of(&Routes::Single(wished.clone()), 1), [(2, None)]);
    let many = Routes::Many { ends: vec![0, 2, 3], to: wished };
    assert_eq!(of(&many, 0), []);
    assert_eq!(of(&many, 1), [(1, Some(7)), (2, None)]);
    assert_eq!(of(&many, 2), [(3, Some(0))]);
}
