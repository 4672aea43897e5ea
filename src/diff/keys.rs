//! Which keys there will be: what a foreign key refers to is looked up here, before anything is written.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use sha2::{Digest, Sha256};

use super::tuple;
use crate::pg::catalog::Binary;

/// Some columns of a row, as one number: two rows have the same number if they have the same values there.
#[derive(Clone, Debug)]
pub struct Columns {
    /// Places among the fields, ascending or not.
    places: Vec<usize>,
    binaries: Vec<Binary>,
}

impl Columns {
    pub fn new(columns: &[(usize, Binary)]) -> Columns {
        let (places, binaries) = columns.iter().copied().unzip();
        Columns { places, binaries }
    }

    /// Whether the numbers of these columns can be compared with those of `other`.
    pub fn comparable(&self, other: &[Binary]) -> bool {
        let alike = |(a, b): (&Binary, &Binary)| match (a, b) {
            (Binary::Numeric { .. }, Binary::Numeric { .. }) => true,
            // The server takes 1.0 for 1.00 in it.
            (Binary::Jsonb, _) => false,
            _ => a == b || (a.is_integer() && b.is_integer()),
        };
        self.binaries.len() == other.len() && self.binaries.iter().zip(other).all(alike)
    }

    pub fn binaries(&self) -> &[Binary] {
        &self.binaries
    }

    /// None if one of the values is null: such a key refers to nothing, and nothing refers to it.
    /// One integer, or two, are told exactly; of anything else it is a hash of 128 bits.
    pub fn number(&self, fields: &[u8]) -> Option<u128> {
        let field = |place: usize| tuple::fields(fields).nth(place).flatten();
        match (self.places.as_slice(), self.binaries.as_slice()) {
            ([place], [binary]) if binary.is_integer() => Some(u128::from(integer(field(*place)?))),
            ([first, second], [a, b]) if a.is_integer() && b.is_integer() => {
                Some(u128::from(integer(field(*first)?)) << 64 | u128::from(integer(field(*second)?)))
            }
            _ => {
                let mut hasher = Sha256::new();
                for (place, binary) in self.places.iter().zip(&self.binaries) {
                    let value = field(*place)?;
                    match binary {
                        binary if binary.is_integer() => hasher.update(integer(value).to_be_bytes()),
                        // Without the digits after the point that are only shown: 1.0 refers to 1.
                        Binary::Numeric { .. } => {
                            hasher.update((value.len() as u64).to_be_bytes());
                            hasher.update(value.get(..6).unwrap_or_default());
                            hasher.update(value.get(8..).unwrap_or_default());
                        }
                        // Zero has two forms, which are equal.
                        Binary::Float4 | Binary::Float8 if is_zero(value) => hasher.update([0]),
                        _ => {
                            hasher.update((value.len() as u64).to_be_bytes());
                            hasher.update(value);
                        }
                    }
                }
                hasher.finalize().first_chunk::<16>().map(|bytes| u128::from_be_bytes(*bytes))
            }
        }
    }
}

/// Whether a float is zero, but for the sign.
fn is_zero(float: &[u8]) -> bool {
    float.split_first().is_some_and(|(first, rest)| first & 0x7f == 0 && rest.iter().all(|byte| *byte == 0))
}

/// An integer of 2, 4 or 8 bytes, widened.
fn integer(bytes: &[u8]) -> u64 {
    let sign = if bytes.first().is_some_and(|first| *first >= 0x80) { u64::MAX } else { 0 };
    bytes.iter().fold(sign, |number, byte| number << 8 | u64::from(*byte))
}

/// The keys of a table as it will be.
#[derive(Debug)]
pub struct KeySet {
    /// The types of the columns.
    pub binaries: Vec<Binary>,
    numbers: HashSet<u128, BuildHasherDefault<Mix>>,
}

impl KeySet {
    pub fn new(binaries: &[Binary], expected: usize) -> KeySet {
        KeySet { binaries: binaries.to_vec(), numbers: HashSet::with_capacity_and_hasher(expected, Default::default()) }
    }

    pub fn size(&self) -> usize {
        self.numbers.len()
    }

    pub fn insert(&mut self, number: u128) {
        self.numbers.insert(number);
    }

    pub fn remove(&mut self, number: u128) {
        self.numbers.remove(&number);
    }

    pub fn contains(&self, number: u128) -> bool {
        self.numbers.contains(&number)
    }
}

/// Spreads a number over the bits of a hash. Nobody gains by making these collide: they would slow down their own mirror.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let word = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
            self.write_u64(word);
        }
    }

    fn write_u64(&mut self, word: u64) {
        // The odd constant is 2⁶⁴ divided by the golden ratio.
        let mixed = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (mixed >> 64) as u64 ^ mixed as u64;
    }

    fn write_u128(&mut self, number: u128) {
        self.write_u64((number >> 64) as u64);
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut fields = Vec::new();
        for value in values {
            fields.extend_from_slice(&value.map_or(-1, |value| value.len() as i32).to_be_bytes());
            fields.extend_from_slice(value.unwrap_or_default());
        }
        fields
    }

    #[test]
    fn integers_of_every_width_are_the_same_key() {
        let narrow = Columns::new(&[(0, Binary::Int2)]).number(&fields(&[Some(&(-7i16).to_be_bytes())]));
        let wide = Columns::new(&[(1, Binary::Int8)]).number(&fields(&[None, Some(&(-7i64).to_be_bytes())]));
        assert_eq!(narrow, wide);
        assert_ne!(narrow, None);
        assert_eq!(Columns::new(&[(0, Binary::Int8)]).number(&fields(&[None])), None);
    }

    #[test]
    fn what_is_equal_for_the_server_is_the_same_key() {
        let float = |value: f64| Columns::new(&[(0, Binary::Float8)]).number(&fields(&[Some(&value.to_be_bytes())]));
        assert_eq!(float(0.0), float(-0.0));
        assert_ne!(float(0.0), float(f64::MIN_POSITIVE));
        assert_ne!(float(1.5), float(-1.5));
        assert!(!Columns::new(&[(0, Binary::Jsonb)]).comparable(&[Binary::Jsonb]));
    }

    #[test]
    fn texts_are_told_apart_by_their_bounds() {
        let number = |a: &str, b: &str| {
            let columns = Columns::new(&[(0, Binary::Text), (1, Binary::Text)]);
            columns.number(&fields(&[Some(a.as_bytes()), Some(b.as_bytes())]))
        };
        assert_ne!(number("a", "bc"), number("ab", "c"));
        assert_eq!(number("a", "bc"), number("a", "bc"));
    }
}
