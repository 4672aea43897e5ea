//! Rows that wait to be sent: in memory up to a budget that all buffers share, then in a file without a name.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::error::{Error, Result};

/// A night's differences, mostly; with the keys that are kept, the most memory that a load takes.
const BUDGET_BYTES: usize = 16 << 20;
/// Of the file that is in memory while it is read back.
const CHUNK_BYTES: usize = 256 << 10;

/// What the buffers of a load share.
#[derive(Clone, Debug)]
pub struct Pool {
    folder: PathBuf,
    in_memory: Rc<Cell<usize>>,
}

impl Pool {
    /// `folder` is where files are made, should there be need.
    pub fn new(folder: &Path) -> Pool {
        Pool { folder: folder.to_path_buf(), in_memory: Rc::default() }
    }

    pub fn buffer(&self) -> Buffer {
        Buffer { pool: self.clone(), memory: Vec::new(), file: None, rows: 0 }
    }
}

#[derive(Debug)]
pub struct Buffer {
    pool: Pool,
    memory: Vec<u8>,
    /// What was before that in memory.
    file: Option<File>,
    rows: u64,
}

impl Buffer {
    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn push(&mut self, row: &[u8]) -> Result<()> {
        self.memory.extend_from_slice(row);
        self.rows += 1;
        let in_memory = &self.pool.in_memory;
        in_memory.set(in_memory.get() + row.len());
        // A buffer that holds little has nothing to win by a file.
        if in_memory.get() > BUDGET_BYTES && self.memory.len() >= CHUNK_BYTES {
            self.spill()?;
        }
        Ok(())
    }

    fn spill(&mut self) -> Result<()> {
        let folder = &self.pool.folder;
        let failed = |cause: std::io::Error| Error::io("write a temporary file in", folder, &cause);
        let file = match &mut self.file {
            Some(file) => file,
            empty => empty.insert(tempfile::tempfile_in(folder).map_err(failed)?),
        };
        file.write_all(&self.memory).map_err(failed)?;
        self.pool.in_memory.set(self.pool.in_memory.get() - self.memory.len());
        self.memory.clear();
        Ok(())
    }

    /// Hands all bytes to `take`, piece by piece, in their order, until it has enough.
    pub fn read(&mut self, mut take: impl FnMut(&[u8]) -> bool) -> Result<()> {
        let failed = |cause: std::io::Error| Error::io("read a temporary file in", &self.pool.folder, &cause);
        if let Some(file) = &mut self.file {
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            let mut chunk = vec![0; CHUNK_BYTES];
            loop {
                let length = file.read(&mut chunk).map_err(failed)?;
                if length == 0 {
                    break;
                }
                if !take(&chunk[..length]) {
                    return Ok(());
                }
            }
        }
        take(&self.memory);
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let in_memory = &self.pool.in_memory;
        in_memory.set(in_memory.get() - self.memory.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_read_back_whether_it_fits_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let pool = Pool::new(folder.path());
        let (mut small, mut large) = (pool.buffer(), pool.buffer());
        small.push(b"few").unwrap();
        let mut expected = Vec::new();
        for i in 0..40u8 {
            let row = vec![i; 1 << 20];
            large.push(&row).unwrap();
            expected.extend_from_slice(&row);
        }
        assert!(pool.in_memory.get() <= BUDGET_BYTES + (1 << 20));
        assert_eq!(large.rows(), 40);
        let mut read = Vec::new();
        large
            .read(|bytes| {
                read.extend_from_slice(bytes);
                true
            })
            .unwrap();
        assert!(read == expected);
        small
            .read(|bytes| {
                assert_eq!(bytes, b"few");
                true
            })
            .unwrap();
        drop((small, large));
        assert_eq!(pool.in_memory.get(), 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
