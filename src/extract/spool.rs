//! The records of one stage until they are written in the order of their keys.
//!
//! Lines are kept in memory up to a budget, then in a file without a name; of each record only its
//! key and its place stay. Sorting thus needs memory by the number of records, not by their bytes.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::slice::ParallelSliceMut;

use super::Place;
use crate::error::{Error, Result, excerpt};
use crate::export;
use crate::files::Written;
use crate::pipeline::Duplicates;

// Three stages of one source share 200 MB at ten times the size of the 42 API.
const BUDGET_BYTES: usize = 32 << 20;

/// Lines that a thread made, in the order of their records.
#[derive(Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    key: Box<[u8]>,
    /// Index of the chunk.
    chunk: u32,
    start: u32,
    len: u32,
    place: Place,
}

/// Where the lines of a chunk are.
enum Store {
    Memory(Vec<u8>),
    /// From this byte of the file.
    File(u64),
}

pub struct Spool {
    chunks: Vec<Store>,
    entries: Vec<Entry>,
    in_memory: usize,
    file: Option<File>,
    file_len: u64,
}

/// What became of a stage's records.
pub struct Outcome {
    pub written: Written,
    pub records: u64,
    /// Records that had the key of another.
    pub duplicates: u64,
}

/// Two records of one key that are not equal, where the stage does not allow it.
pub struct Conflict {
    pub places: [Place; 2],
    pub lines: [String; 2],
}

impl Chunk {
    /// The buffer to write the next line to; [`Chunk::commit`] makes it a record.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What was written since `start` is a record with this key.
    pub fn commit(&mut self, start: usize, key: &[u8], place: Place) -> Result<(), String> {
        let fits = |n: usize| u32::try_from(n).map_err(|_| "the records of a page come to more than 4 GiB".to_string());
        let (start, len) = (fits(start)?, fits(self.bytes.len() - start)?);
        self.entries.push(Entry { key: key.into(), chunk: 0, start, len, place });
        Ok(())
    }
}

impl Spool {
    pub fn new() -> Spool {
        Spool { chunks: Vec::new(), entries: Vec::new(), in_memory: 0, file: None, file_len: 0 }
    }

    /// Takes in the lines of a chunk; `folder` is where the file is made, should there be need.
    pub fn push(&mut self, chunk: Chunk, folder: &Path) -> Result<()> {
        let index = self.chunks.len() as u32;
        self.in_memory += chunk.bytes.len();
        self.entries.extend(chunk.entries.into_iter().map(|entry| Entry { chunk: index, ..entry }));
        let mut bytes = chunk.bytes;
        bytes.shrink_to_fit();
        self.chunks.push(Store::Memory(bytes));
        if self.in_memory > BUDGET_BYTES {
            self.spill(folder).map_err(|cause| Error::io("write a temporary file in", folder, &cause))?;
        }
        Ok(())
    }

    fn spill(&mut self, folder: &Path) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            empty => empty.insert(tempfile::tempfile_in(folder)?),
        };
        for chunk in &mut self.chunks {
            if let Store::Memory(bytes) = chunk {
                file.write_all(bytes)?;
                let len = bytes.len() as u64;
                *chunk = Store::File(self.file_len);
                self.file_len += len;
            }
        }
        self.in_memory = 0;
        Ok(())
    }

    /// Writes the records in order to `target`; of those with one key one.
    pub fn write(mut self, target: &Path, duplicates: Duplicates) -> Result<Result<Outcome, Conflict>> {
        // Stable: records of one key stay in the order in which they came.
        self.entries.par_sort_by(|a, b| a.key.cmp(&b.key));
        let mut writer = export::Writer::create(target)?;
        let (mut line, mut other) = (Vec::new(), Vec::new());
        let mut records = 0;
        for same in self.entries.chunk_by(|a, b| a.key == b.key) {
            let kept = match duplicates {
                Duplicates::Last => &same[same.len() - 1],
                Duplicates::First | Duplicates::Error => &same[0],
            };
            self.read(kept, &mut line, target)?;
            if duplicates == Duplicates::Error {
                for entry in &same[1..] {
                    self.read(entry, &mut other, target)?;
                    if other != line {
                        return Ok(Err(Conflict {
                            places: [kept.place, entry.place],
                            lines: [&line, &other].map(|line| excerpt(&String::from_utf8_lossy(line), 200)),
                        }));
                    }
                }
            }
            writer.record(&line)?;
            records += 1;
        }
        let duplicates = self.entries.len() as u64 - records;
        Ok(Ok(Outcome { written: writer.commit()?, records, duplicates }))
    }

    fn read(&self, entry: &Entry, line: &mut Vec<u8>, target: &Path) -> Result<()> {
        let (start, len) = (entry.start as usize, entry.len as usize);
        line.clear();
        match (&self.chunks[entry.chunk as usize], &self.file) {
            (Store::Memory(bytes), _) => line.extend_from_slice(&bytes[start..start + len]),
            (Store::File(offset), Some(file)) => {
                line.resize(len, 0);
                let read = file.read_exact_at(line, offset + start as u64);
                read.map_err(|cause| Error::io("read the temporary file for", target, &cause))?;
            }
            (Store::File(_), None) => unreachable!("a chunk is in the file only after the file was made"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(records: &[(&str, &str)], spilled: bool) -> (tempfile::TempDir, Spool) {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::new();
        for (i, (key, line)) in records.iter().enumerate() {
            let mut chunk = Chunk::default();
            chunk.buffer().extend_from_slice(line.as_bytes());
            chunk.commit(0, key.as_bytes(), Place { page: 0, record: i as u32 }).unwrap();
            spool.push(chunk, folder.path()).unwrap();
            if spilled && i % 2 == 0 {
                spool.spill(folder.path()).unwrap();
            }
        }
        (folder, spool)
    }

    fn written(records: &[(&str, &str)], duplicates: Duplicates, spilled: bool) -> Result<String, [u32; 2]> {
        let (folder, spool) = spool(records, spilled);
        let target = folder.path().join("all.json");
        match spool.write(&target, duplicates).unwrap() {
            Ok(_) => Ok(std::fs::read_to_string(&target).unwrap()),
            Err(conflict) => Err(conflict.places.map(|place| place.record)),
        }
    }

    #[test]
    fn records_come_out_in_order_from_memory_and_from_the_file() {
        for spilled in [false, true] {
            let text = written(&[("b", "{2}"), ("c", "{3}"), ("a", "{1}")], Duplicates::Error, spilled);
            assert_eq!(text.unwrap(), "[\n{1},\n{2},\n{3}\n]\n");
        }
    }

    #[test]
    fn equal_records_are_one_and_others_are_a_conflict_unless_a_choice_is_made() {
        let equal = [("a", "{1}"), ("a", "{1}")];
        assert_eq!(written(&equal, Duplicates::Error, false).unwrap(), "[\n{1}\n]\n");
        let differ = [("a", "{1}"), ("b", "{3}"), ("a", "{2}")];
        assert_eq!(written(&differ, Duplicates::Error, false).unwrap_err(), [0, 2]);
        assert_eq!(written(&differ, Duplicates::First, false).unwrap(), "[\n{1},\n{3}\n]\n");
        assert_eq!(written(&differ, Duplicates::Last, true).unwrap(), "[\n{2},\n{3}\n]\n");
    }

    #[test]
    fn a_conflict_leaves_no_file() {
        let (folder, spool) = spool(&[("a", "{1}"), ("a", "{2}")], false);
        let target = folder.path().join("all.json");
        assert!(spool.write(&target, Duplicates::Error).unwrap().is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
