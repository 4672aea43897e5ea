//! The rules under injected times, and the file that processes share.

use std::time::Duration;

use super::clock::Now;
use super::state::{Cause, Departure, HOUR_MS, LEAST_MARGIN_MS, Rates, SECOND_MS, State};
use super::{Limiter, ServerLimits};

/// Milliseconds since boot, and Unix time, at which the tests begin.
const NOW: i64 = 500_000_000;
const WALL: i64 = 1_800_000_000_000;
const TWO: Rates = Rates { per_second: Some(2), per_hour: Some(1200) };

/// A moment after the beginning, by both clocks.
fn at(ms: i64) -> Now {
    Now { boot_id: "one", ms: NOW + ms, wall_ms: WALL + ms }
}

/// The state as another process reads it at this moment.
fn reread(state: &State, written: &Now, read: &Now) -> State {
    let mut state = state.clone();
    state.stamp(written);
    State::read(&serde_json::to_vec(&state).unwrap(), read)
}

/// Sends so many requests, each as soon as it may go; gives their moments.
fn send(state: &mut State, from_ms: i64, requests: usize, rates: Rates) -> Vec<i64> {
    let mut now = from_ms;
    let mut sent = Vec::new();
    for _ in 0..requests {
        now = state.next(now, rates).at_ms;
        state.send(now, rates);
        sent.push(now);
    }
    sent
}

/// The most moments in any stretch of `length_ms`.
fn densest(sent: &[i64], length_ms: i64) -> usize {
    sent.iter().map(|s| sent.iter().filter(|t| (*s..s + length_ms).contains(t)).count()).max().unwrap_or(0)
}

fn server(remaining: u32) -> ServerLimits {
    ServerLimits { per_second: Some(2), per_hour: Some(1200), hourly_remaining: Some(remaining) }
}

#[test]
fn no_second_and_no_hour_holds_more_than_its_limit() {
    let mut random = fastrand::Rng::with_seed(1);
    for (per_second, per_hour) in [(2, 50), (7, 60), (40, 200), (1, 1), (500, 700)] {
        let rates = Rates { per_second: Some(per_second), per_hour: Some(per_hour) };
        let (mut state, mut now, mut sent) = (State::default(), at(0), Vec::new());
        for _ in 0..600 {
            let read = at(now.ms - NOW + random.i64(0..400));
            state = reread(&state, &now, &read);
            let slot = state.next(read.ms, rates).at_ms;
            state.reserve(slot);
            // Half of them are late, and have to ask for another moment.
            now = at(slot - NOW + if random.bool() { random.i64(0..300) } else { 0 });
            state = reread(&state, &read, &now);
            let mut reserved = slot;
            while let Departure::At(later) = state.depart(now.ms, reserved, rates) {
                (reserved, now) = (later, at(later - NOW));
            }
            sent.push(now.ms);
        }
        assert_eq!(densest(&sent, SECOND_MS + LEAST_MARGIN_MS).max(per_second as usize), per_second as usize);
        assert!(densest(&sent, HOUR_MS) <= per_hour as usize);
    }
}

#[test]
fn the_allowed_rate_is_nearly_reached() {
    let sent = send(&mut State::default(), NOW, 95, TWO);
    assert!(sent[94] - sent[0] <= 47 * 1015, "{} ms for 95 requests, 47 s at the least", sent[94] - sent[0]);
    let many = Rates { per_second: Some(100), per_hour: None };
    let sent = send(&mut State::default(), NOW, 1001, many);
    assert!(sent[1000] - sent[0] <= 10 * 1023, "{} ms for 1001 requests at 100 a second", sent[1000] - sent[0]);
}

#[test]
fn a_wall_clock_that_jumps_changes_nothing() {
    let mut state = State::default();
    send(&mut state, NOW, 4, TWO);
    let free = state.next(NOW + 1100, TWO);
    for jump in [-40 * 24 * HOUR_MS, -HOUR_MS / 2, 1234, 30 * HOUR_MS, 400 * 24 * HOUR_MS] {
        let jumped = Now { wall_ms: WALL + 1100 + jump, ..at(1100) };
        assert_eq!(reread(&state, &at(1015), &jumped).next(NOW + 1100, TWO), free, "{jump}");
    }
}

#[test]
fn across_a_start_of_the_machine_the_wall_clock_tells_how_long_it_took() {
    let rates = Rates { per_second: None, per_hour: Some(10) };
    let mut state = State::default();
    send(&mut state, NOW, 10, rates);
    state.block(NOW, HOUR_MS / 2);
    let started = |wall_ms| Now { boot_id: "two", ms: 20_000, wall_ms };
    // 20 minutes later the hour has 40 minutes to go, whatever the new clock counts from.
    let minutes = |state: &State, now: Now| (state.next(now.ms, rates).at_ms - now.ms) / 60_000;
    let now = started(WALL + HOUR_MS / 3);
    let later = reread(&state, &at(0), &now);
    assert_eq!(minutes(&later, now), 40);
    assert_eq!(later.left(now.ms, 10), 0);
    let now = started(WALL + 2 * HOUR_MS);
    assert_eq!(minutes(&reread(&state, &at(0), &now), now), 0);
    // Set back, it cannot tell: then no time has passed, and no more than the hour is waited for.
    for back in [HOUR_MS, 1000 * 24 * HOUR_MS, WALL] {
        let now = started(WALL - back);
        assert_eq!(minutes(&reread(&state, &at(0), &now), now), 60, "{back}");
    }
}

#[test]
fn what_reserved_before_the_machine_was_started_is_gone() {
    let mut state = State::default();
    state.reserve(NOW + 700);
    let now = Now { boot_id: "two", ms: 5, wall_ms: WALL };
    assert_eq!(reread(&state, &at(0), &now).next(5, TWO).at_ms, 5);
}

#[test]
fn a_file_that_cannot_be_understood_says_nothing() {
    let nothing = State::read(b"", &at(0)).next(NOW, TWO);
    assert_eq!((nothing.at_ms, nothing.cause), (NOW, Cause::Pace));
    let old = r#"{"written_ms":1795000000000,"blocked_until_ms":1795000009000,"last_ms":1795000009000,
        "server_per_second":2,"server_per_hour":1200,"second":[[1795000000000,2]],"hour":[[1795000000000,1200]]}"#;
    for text in ["{", "\0\0", "[1, 2]", "{\"version\":3}", old] {
        assert_eq!(State::read(text.as_bytes(), &at(0)), State::read(b"", &at(0)), "{text}");
    }
}

#[test]
fn impossible_values_make_nobody_wait_longer_than_an_hour() {
    let mut state = State::default();
    state.stamp(&at(0));
    let good = serde_json::to_value(&state).unwrap();
    let far = i64::MAX;
    for (member, value) in [
        ("second", serde_json::json!([[far, 1], [5, 1], [NOW - 1, u32::MAX], [NOW - 5, u32::MAX]])),
        ("hour", serde_json::json!([[far, 1], [i64::MIN, 3], [NOW - 1, u32::MAX], [NOW - 5, u32::MAX]])),
        ("reserved", serde_json::json!([far, i64::MIN, NOW + 3 * HOUR_MS])),
        ("blocked_until_ms", serde_json::json!(far)),
        ("margin_ms", serde_json::json!(far)),
        ("margin_ms", serde_json::json!(i64::MIN)),
        ("sent", serde_json::json!(u64::MAX)),
        ("written_ms", serde_json::json!(far)),
        ("written_wall_ms", serde_json::json!(i64::MIN)),
        ("word", serde_json::json!({"number": u64::MAX, "remaining": 0, "at_ms": far, "shared": true})),
        ("word", serde_json::json!({"number": 0, "remaining": 0, "at_ms": NOW - 60_000, "shared": true})),
    ] {
        let mut broken = good.clone();
        broken[member] = value.clone();
        for boot_id in ["one", "two"] {
            let mut state = State::read(broken.to_string().as_bytes(), &Now { boot_id, ..at(0) });
            let opening = state.next(NOW, TWO);
            assert!((NOW..=NOW + HOUR_MS + 60_000).contains(&opening.at_ms), "{member} {value}: {opening:?}");
            send(&mut state, NOW, 3, TWO);
        }
    }
}

#[test]
fn a_server_that_wants_no_requests_gets_none() {
    let mut state = State::default();
    state.block(NOW, 5000);
    let opening = state.next(NOW, Rates { per_second: None, per_hour: None });
    assert_eq!((opening.at_ms, opening.cause), (NOW + 5000, Cause::Server));
    assert_eq!(state.depart(NOW, NOW, TWO), Departure::Shut);
}

#[test]
fn a_request_goes_by_what_was_really_sent() {
    let one = Rates { per_second: Some(1), per_hour: None };
    let mut state = State::default();
    // One has its slot and is still connecting; another comes, and then both want to go at once.
    let first = state.next(NOW, one).at_ms;
    state.reserve(first);
    let second = state.next(NOW + 10, one).at_ms;
    assert!(second >= NOW + SECOND_MS);
    state.reserve(second);
    assert_eq!(state.depart(NOW + 400, first, one), Departure::Now(1));
    // Who was put off keeps its place before those that have only reserved.
    state.reserve(second + 900);
    let Departure::At(third) = state.depart(second, second, one) else { panic!("the first went late") };
    assert_eq!(third, NOW + 400 + SECOND_MS + LEAST_MARGIN_MS + 1);
    assert_eq!(state.depart(third, third, one), Departure::Now(2));
}

#[test]
fn a_request_that_was_sent_later_than_counted_counts_from_then() {
    let one = Rates { per_second: Some(1), per_hour: None };
    let mut state = State::default();
    state.send(NOW, one);
    state.sent_later(NOW, NOW + 400, one);
    assert_eq!(state.next(NOW + 500, one).at_ms, NOW + 400 + SECOND_MS + LEAST_MARGIN_MS + 1);
}

#[test]
fn a_slot_that_nobody_takes_up_is_used_and_then_forgotten() {
    let hourly = Rates { per_second: None, per_hour: Some(1) };
    let mut state = State::default();
    state.reserve(NOW);
    assert_eq!(reread(&state, &at(0), &at(20_000)).next(NOW + 20_000, hourly).cause, Cause::Hour);
    assert_eq!(reread(&state, &at(0), &at(40_000)).next(NOW + 40_000, hourly).at_ms, NOW + 40_000);
}

#[test]
fn a_refusal_widens_the_margin_once_and_peace_narrows_it() {
    let mut state = State::default();
    let gap = |state: &State| {
        let mut copy = state.clone();
        let sent = send(&mut copy, NOW + HOUR_MS, 3, TWO);
        sent[2] - sent[0] - SECOND_MS - 1
    };
    send(&mut state, NOW, 6, TWO);
    assert_eq!(gap(&state), 13);
    // All under way are refused for the same reason.
    (4..=6).for_each(|number| state.widen(number, TWO));
    assert_eq!(gap(&state), 26);
    for _ in 0..8 {
        let last = state.send(NOW, TWO);
        state.widen(last, TWO);
    }
    assert_eq!(gap(&state), 200);
    send(&mut state, NOW, 3000, TWO);
    assert_eq!(gap(&state), 13);
}

#[test]
fn a_limit_that_was_not_known_is_no_reason_to_widen() {
    let mut state = State::default();
    send(&mut state, NOW, 8, Rates { per_second: None, per_hour: None });
    state.hear(NOW, 3, server(1197), None);
    state.widen(8, TWO);
    let sent = send(&mut state, NOW + HOUR_MS, 3, TWO);
    assert_eq!(sent[2] - sent[0], SECOND_MS + LEAST_MARGIN_MS + 1);
}

#[test]
fn the_servers_count_is_taken_as_of_the_request_that_it_answers() {
    let rates = Rates { per_second: None, per_hour: Some(1200) };
    let mut state = State::default();
    send(&mut state, NOW, 8, rates);
    // Others have used 1,000; 5 of ours were sent after the one that is answered.
    state.hear(NOW + 500, 3, server(197), None);
    assert_eq!(state.left(NOW + 500, 1200), 192);
    state.hear(NOW + 600, 8, server(192), None);
    assert_eq!(state.left(NOW + 600, 1200), 192);
    // An answer that was overtaken changes nothing, whichever way it errs.
    for remaining in [0, 195, 1200] {
        state.hear(NOW + 700, 5, server(remaining), None);
        assert_eq!(state.left(NOW + 700, 1200), 192);
    }
    send(&mut state, NOW + 700, 192, rates);
    let opening = state.next(NOW + 700, rates);
    assert_eq!(opening.cause, Cause::Hour);
    assert!((HOUR_MS..HOUR_MS + 5000).contains(&(opening.at_ms - NOW - 600)), "{opening:?}");
}

#[test]
fn a_server_that_has_counted_no_more_than_we_have_is_asked_again_when_our_first_request_is_an_hour_old() {
    let mut state = State::default();
    let mut last = 0;
    for sent in send(&mut state, NOW, 1200, Rates { per_second: Some(2), per_hour: None }) {
        last = sent;
    }
    state.hear(last, 1200, server(0), None);
    let opening = state.next(last, TWO);
    assert_eq!(opening.cause, Cause::Hour);
    assert!((HOUR_MS..HOUR_MS + 15_000).contains(&(opening.at_ms - NOW)), "{opening:?}");
}

#[test]
fn nothing_left_is_waited_out_for_an_hour_at_the_most_and_not_probed() {
    let mut state = State::default();
    state.send(NOW, TWO);
    state.hear(NOW + 700, 1, server(0), None);
    for minute in [0, 20, 59] {
        let read = at(700 + minute * 60_000);
        let opening = reread(&state, &at(700), &read).next(read.ms, TWO);
        assert_eq!((opening.at_ms, opening.cause), (NOW + 700 + HOUR_MS + 1000, Cause::Hour));
    }
    let read = at(700 + HOUR_MS + 1000);
    assert_eq!(reread(&state, &at(700), &read).next(read.ms, TWO).at_ms, read.ms);
}

/// A server that counts as the API may: in fixed hours from `phase_ms`, or in the hour before each request.
struct Server {
    fixed: Option<i64>,
    limit: usize,
    /// When requests were admitted, ours and those of others.
    seen: Vec<i64>,
}

impl Server {
    fn used(&self, now: i64) -> usize {
        let counts = |at: &&i64| match self.fixed {
            Some(phase) => (**at - phase).div_euclid(HOUR_MS) == (now - phase).div_euclid(HOUR_MS),
            None => **at > now - HOUR_MS,
        };
        self.seen.iter().filter(counts).count()
    }

    /// What remains after this request; none if it is refused.
    fn admit(&mut self, now: i64) -> Option<u32> {
        let left = self.limit.checked_sub(self.used(now) + 1)?;
        self.seen.push(now);
        Some(left as u32)
    }
}

#[test]
fn neither_kind_of_server_is_exceeded_whatever_overtakes() {
    for (seed, fixed) in (0..6).flat_map(|seed| [(seed, None), (seed, Some(seed as i64 * 700_000))]) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut server = Server { fixed, limit: 60, seen: Vec::new() };
        let rates = Rates { per_second: Some(2), per_hour: Some(60) };
        // Others used a part of the quota before us, and our own state of then is lost.
        for i in 0..random.i64(0..50) {
            assert!(server.admit(NOW - 60_000 + i).is_some());
        }
        let (mut state, mut now, mut answers) = (State::default(), NOW, Vec::new());
        let begun = server.seen.len();
        for i in 0..200 {
            let slot = state.next(now, rates).at_ms;
            // Answers that have come by then, in any order.
            random.shuffle(&mut answers);
            answers.retain(|(came, number, remaining): &(i64, u64, u32)| {
                let limits =
                    ServerLimits { per_hour: Some(60), hourly_remaining: Some(*remaining), per_second: Some(2) };
                if *came <= slot {
                    state.hear(slot, *number, limits, None);
                }
                *came > slot
            });
            now = state.next(slot, rates).at_ms;
            let number = state.send(now, rates);
            let remaining = server.admit(now + random.i64(0..10));
            // With a lost state, what was under way when the first answer came may have been too much.
            assert!(remaining.is_some() || i < 4, "seed {seed}, fixed {fixed:?}: request {i} is refused");
            answers.extend(remaining.map(|remaining| (now + random.i64(100..3000), number, remaining)));
        }
        assert!(server.seen.len() - begun > 150, "seed {seed}: {}", server.seen.len());
    }
}

#[test]
fn the_state_stays_small_whatever_the_rate() {
    let rates = Rates { per_second: Some(1_000_000), per_hour: Some(1_000_000_000) };
    let mut state = State::default();
    for i in 0..50_000 {
        state.send(NOW + i, rates);
        if i % 1000 == 0 {
            state = reread(&state, &at(i), &at(i));
        }
    }
    let json = serde_json::to_string(&state).unwrap();
    assert!(json.len() < 10_000, "{}", json.len());
}

#[test]
fn a_forecast_of_many_requests_is_quick_and_counts_the_hours() {
    let minutes = |requests| (State::default().run(NOW, requests, TWO) - NOW) / 60_000;
    assert_eq!([94, 1200, 1201, 5000].map(minutes), [0, 10, 60, 242]);
    let began = std::time::Instant::now();
    assert_eq!(minutes(100_000) / 60, 83);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

fn limiters(limits: &str) -> (tempfile::TempDir, [Limiter; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("[pipeline]\nname = 't'\n[api]\nbase_url = 'http://localhost:1/api'\nlimits = {limits}");
    let pipeline = crate::pipeline::Pipeline::parse(&folder.path().join("pipeline.toml"), &text).unwrap();
    let open = || Limiter::new(&pipeline.paths, &pipeline.api);
    let both = [open(), open()];
    (folder, both)
}

#[test]
fn whoever_waits_is_woken_when_it_stops() {
    let (_folder, [limiter, _]) = limiters("{ per_hour = 1 }");
    assert!(limiter.wait_for_slot(|_, _| {}).unwrap().is_some());
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| limiter.sleep(Duration::from_secs(3600)));
        let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| limiter.wait_for_slot(|_, _| {}))).collect();
        std::thread::sleep(Duration::from_millis(50));
        limiter.stop();
        assert!(!sleeper.join().unwrap());
        waiting.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap().unwrap(), None));
    });
}

#[test]
fn one_thread_of_a_process_reserves_at_a_time_so_that_processes_take_turns() {
    let (_folder, [many, one]) = limiters("{ per_second = 4 }");
    let send = |limiter: &Limiter| {
        let slot = limiter.wait_for_slot(|_, _| {}).unwrap().unwrap();
        assert!(limiter.depart(slot).unwrap().unwrap().is_sent());
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12).map(|_| scope.spawn(|| send(&many))).collect();
        std::thread::sleep(Duration::from_millis(100));
        let began = std::time::Instant::now();
        send(&one);
        // 8 others wait, who are served in one second and two; behind them it would be the third.
        assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn processes_share_one_budget_and_learn_from_the_server() {
    let (_folder, [one, two]) = limiters("{ per_second = 100, per_hour = 1000 }");
    let reserved = |limiter: &Limiter| limiter.reserve().unwrap().1;
    let slot = one.wait_for_slot(|wait, _| assert_eq!(wait, Duration::ZERO)).unwrap().unwrap();
    let slot = one.depart(slot).unwrap().unwrap();
    let server = ServerLimits { per_second: Some(1), per_hour: Some(1200), hourly_remaining: Some(0) };
    one.observe(slot, ServerLimits { hourly_remaining: None, ..server }).unwrap();
    let wait = reserved(&two);
    assert!(wait > Duration::from_millis(900), "{wait:?}: the server allows one a second");
    let slot = one.depart(one.wait_for_slot(|_, _| {}).unwrap().unwrap()).unwrap().unwrap();
    one.observe(slot, server).unwrap();
    let wait = reserved(&two);
    assert!(wait > Duration::from_secs(3500), "{wait:?}: the server says the hour is used up");
    assert_eq!(two.forecast(1).unwrap().left, Some(0));
}

#[test]
fn a_wait_that_is_too_long_is_told_at_once() {
    let (_folder, [mut one, two]) = limiters("{ per_second = 1, per_hour = 1 }");
    one.max_wait = Duration::ZERO;
    let slot = one.wait_for_slot(|_, _| {}).unwrap().unwrap();
    one.depart(slot).unwrap();
    let error = one.wait_for_slot(|_, _| {}).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (crate::error::Kind::Later, 75.into()));
    let text = error.to_string();
    assert!(text.starts_with("the hourly quota of `localhost:1` is used up until 20"), "{text}");
    assert!(text.ends_with("Z\n  hint: Run again after that, or raise `--max-wait`, which is 0s."), "{text}");
    one.block(Duration::from_secs(4 * 3600)).unwrap();
    let error = two.wait_for_slot(|_, _| {}).unwrap_err().to_string();
    assert!(error.starts_with("`localhost:1` wants no requests until 20"), "{error}");
    assert!(error.ends_with("which is 1h 5m."), "{error}");
    two.block(Duration::from_secs(1)).unwrap();
}
