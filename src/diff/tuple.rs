//! Rows in COPY's binary form: the number of fields, then each with its length. Two rows are the same if their bytes are.

use std::cmp::Ordering;

use crate::pg::catalog::Binary;

/// What stands before the first row: the signature, no flags, no extension.
pub const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What stands after the last row.
pub const TRAILER: &[u8] = &(-1i16).to_be_bytes();

/// The length of the row that `bytes` begins with; none if it is not whole, or if the trailer stands there.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let fields = i16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
    let mut at = 2;
    for _ in 0..fields {
        let length = i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
        at += 4 + usize::try_from(length).unwrap_or(0);
    }
    (fields >= 0 && at <= bytes.len()).then_some(at)
}

/// The fields of a row, a null as none. `fields` is what follows the number of fields.
pub fn fields(mut fields: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    std::iter::from_fn(move || {
        let (length, rest) = fields.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            fields = rest;
            return Some(None);
        };
        let (field, rest) = rest.split_at_checked(length)?;
        fields = rest;
        Some(Some(field))
    })
}

/// Counts for each field, by its place, whether it differs between the two rows.
pub fn count_differing(old: &[u8], new: &[u8], counts: &mut Vec<u64>) {
    for (place, (old, new)) in fields(&old[2..]).zip(fields(&new[2..])).enumerate() {
        counts.resize(counts.len().max(place + 1), 0);
        counts[place] += u64::from(old != new);
    }
}

/// The columns by which rows are ordered and told apart: their places in the row, and what is in them.
#[derive(Clone, Debug)]
pub struct Key {
    places: Vec<usize>,
    /// The first bit of a signed integer is turned over, so that the order of the bytes is that of the numbers.
    signed: Vec<bool>,
}

impl Key {
    pub fn new(columns: &[(usize, Binary)]) -> Key {
        use Binary::*;
        let signed = |binary| matches!(binary, Int2 | Int4 | Int8 | Timestamptz | Timestamp | Date | Time);
        Key {
            places: columns.iter().map(|(place, _)| *place).collect(),
            signed: columns.iter().map(|(_, binary)| signed(*binary)).collect(),
        }
    }

    /// How the key of `a` stands to that of `b`, both rows.
    pub fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        for (place, signed) in self.places.iter().zip(&self.signed) {
            let (a, b) = (self.field(a, *place), self.field(b, *place));
            let ordering = match (signed, a, b) {
                (true, [first_a, rest_a @ ..], [first_b, rest_b @ ..]) => {
                    (first_a ^ 0x80).cmp(&(first_b ^ 0x80)).then_with(|| rest_a.cmp(rest_b))
                }
                _ => a.cmp(b),
            };
            if ordering != Ordering::Equal {
                return ordering;
            }
        }
        Ordering::Equal
    }

    /// Appends the key of `row` as a row of its own.
    pub fn write(&self, row: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.places.len() as i16).to_be_bytes());
        for place in &self.places {
            let field = self.field(row, *place);
            out.extend_from_slice(&(field.len() as i32).to_be_bytes());
            out.extend_from_slice(field);
        }
    }

    /// Members of a key are never null.
    fn field<'r>(&self, row: &'r [u8], place: usize) -> &'r [u8] {
        let fields = row.get(2..).unwrap_or_default();
        self::fields(fields).nth(place).flatten().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fields: &[Option<&[u8]>]) -> Vec<u8> {
        let mut row = (fields.len() as i16).to_be_bytes().to_vec();
        for field in fields {
            let length = field.map_or(-1, |field| field.len() as i32);
            row.extend_from_slice(&length.to_be_bytes());
            row.extend_from_slice(field.unwrap_or_default());
        }
        row
    }

    #[test]
    fn a_row_tells_its_length_and_its_fields() {
        let row = row(&[Some(b"ab"), None, Some(b"")]);
        assert_eq!(length(&row), Some(row.len()));
        assert_eq!(length(&[row.as_slice(), b"more"].concat()), Some(row.len()));
        assert_eq!(length(&row[..row.len() - 1]), None);
        assert_eq!(length(TRAILER), None);
        assert_eq!(fields(&row[2..]).collect::<Vec<_>>(), [Some(&b"ab"[..]), None, Some(b"")]);
    }

    #[test]
    fn keys_are_ordered_as_the_server_orders_them() {
        let key = Key::new(&[(1, Binary::Int4), (0, Binary::Text)]);
        let row = |text: &str, number: i32| row(&[Some(text.as_bytes()), Some(&number.to_be_bytes())]);
        assert_eq!(key.compare(&row("b", -1), &row("a", 1)), Ordering::Less);
        assert_eq!(key.compare(&row("b", 1), &row("a", 1)), Ordering::Greater);
        assert_eq!(key.compare(&row("a", 256), &row("a", 256)), Ordering::Equal);
        let mut out = Vec::new();
        key.write(&row("a", 7), &mut out);
        assert_eq!(fields(&out[2..]).collect::<Vec<_>>(), [Some(&7i32.to_be_bytes()[..]), Some(b"a")]);
    }
}
