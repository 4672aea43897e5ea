//! Good answers turned bad: the faults that spoil a body or its headers.

use crate::simulate::answer::{Answer, Manner};
use crate::simulate::faults::Kind;

/// Spoils `answer` as `kind` says; kinds that are no matter of the body leave it as it is.
pub fn distort(mut answer: Answer, kind: Kind) -> Answer {
    match kind {
        Kind::Truncated => answer.manner = Manner::Truncated,
        Kind::Chunked => answer.manner = Manner::Chunked,
        Kind::Garbage => answer.body = b"[{\"id\":1,\"name\":\x01 %%% upstream glitch %%%\n\0".to_vec(),
        Kind::EmptyList => answer.body = b"[]".to_vec(),
        Kind::Object => {
            let body = std::mem::take(&mut answer.body);
            answer.body = [b"{\"data\":", body.as_slice(), b"}"].concat();
        }
        Kind::InvalidUtf8 => into_first_name(&mut answer.body, b"\xff\xfe"),
        Kind::Nul => into_first_name(&mut answer.body, b"a\\u0000b"),
        Kind::Surrogate => into_first_name(&mut answer.body, b"\\ud800"),
        Kind::BigId => replace_first_id(&mut answer.body),
        Kind::WrongTotal => {
            for (_, value) in answer.headers.iter_mut().filter(|(name, _)| *name == "x-total") {
                *value = (value.parse().unwrap_or(0) + 1_u64).to_string();
            }
        }
        Kind::MissingTotal => answer = answer.without("x-total"),
        _ => {}
    }
    answer
}

/// Inserts bytes at the beginning of the first string that is the value of a `name`.
fn into_first_name(body: &mut Vec<u8>, bytes: &[u8]) {
    let key = b"\"name\":\"";
    if let Some(at) = find(body, key) {
        let at = at + key.len();
        body.splice(at..at, bytes.iter().copied());
    }
}

/// Gives the first record an id one beyond what a bigint holds.
fn replace_first_id(body: &mut Vec<u8>) {
    let key = b"\"id\":";
    if let Some(at) = find(body, key) {
        let from = at + key.len();
        let digits = body[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        body.splice(from..from + digits, b"9223372036854775808".iter().copied());
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoiled(kind: Kind) -> Vec<u8> {
        distort(Answer::json(200, b"[{\"id\":12,\"name\":\"x\"},{\"id\":13,\"name\":\"y\"}]".to_vec()), kind).body
    }

    #[test]
    fn one_record_is_spoiled_and_the_others_are_not() {
        assert_eq!(spoiled(Kind::Nul), b"[{\"id\":12,\"name\":\"a\\u0000bx\"},{\"id\":13,\"name\":\"y\"}]");
        assert_eq!(spoiled(Kind::Surrogate), b"[{\"id\":12,\"name\":\"\\ud800x\"},{\"id\":13,\"name\":\"y\"}]");
        assert_eq!(spoiled(Kind::BigId), b"[{\"id\":9223372036854775808,\"name\":\"x\"},{\"id\":13,\"name\":\"y\"}]");
        assert!(std::str::from_utf8(&spoiled(Kind::InvalidUtf8)).is_err());
        assert!(spoiled(Kind::Object).starts_with(b"{\"data\":[{"));
    }
}
