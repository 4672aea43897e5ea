//! Good answers turned bad: the faults that spoil a body or its headers.

use crate::simulate::answer::{Answer, Manner};
use crate::simulate::faults::{Fault, Kind};

/// Spoils `answer` as `fault` says; kinds that are no matter of the body leave it as it is.
pub fn distort(mut answer: Answer, fault: &Fault) -> Answer {
    match fault.kind {
        Kind::Truncated => answer.manner = Manner::Truncated,
        Kind::LongLength => answer.manner = Manner::LongLength,
        Kind::ShortLength => answer.manner = Manner::ShortLength,
        Kind::Drip => answer.manner = Manner::Drip { every_ms: fault.delay_ms },
        Kind::CorruptGzip => answer.manner = Manner::CorruptGzip,
        Kind::NotGzip => answer.manner = Manner::NotGzip,
        Kind::Chunked => answer.manner = Manner::Chunked,
        Kind::Garbage => answer.body = b"[{\"id\":1,\"name\":\x01 %%% upstream glitch %%%\n\0".to_vec(),
        Kind::EmptyList => {
            answer.body = b"[]".to_vec();
            if let Some(total) = fault.total {
                answer = answer.without("x-total").with("x-total", total);
            }
        }
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
    use crate::simulate::faults::Faults;

    fn spoiled(kind: &str) -> Vec<u8> {
        let text = format!("[[fault]]\nkind = \"{kind}\"");
        let fault = Faults::parse(&text, "faults.toml", 42).unwrap().next("/v2/campus", 1).unwrap();
        let body = b"[{\"id\":12,\"name\":\"x\"},{\"id\":13,\"name\":\"y\"}]";
        distort(Answer::json(200, body.to_vec()), &fault).body
    }

    #[test]
    fn one_record_is_spoiled_and_the_others_are_not() {
        assert_eq!(spoiled("nul"), b"[{\"id\":12,\"name\":\"a\\u0000bx\"},{\"id\":13,\"name\":\"y\"}]");
        assert_eq!(spoiled("surrogate"), b"[{\"id\":12,\"name\":\"\\ud800x\"},{\"id\":13,\"name\":\"y\"}]");
        assert_eq!(spoiled("big-id"), b"[{\"id\":9223372036854775808,\"name\":\"x\"},{\"id\":13,\"name\":\"y\"}]");
        assert!(std::str::from_utf8(&spoiled("invalid-utf8")).is_err());
        assert!(spoiled("object").starts_with(b"{\"data\":[{"));
    }
}
