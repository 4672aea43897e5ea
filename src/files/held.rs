//! Whether somebody holds a lock, without taking it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use crate::error::{Error, Result};

/// What the holder of a lock wrote of itself; none if nobody holds it.
pub fn held_by(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(Error::io("open the lock", path, &cause)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            Ok(Some(io::read_to_string(file).map_err(|cause| Error::io("read", path, &cause))?))
        }
        Err(TryLockError::Error(cause)) => Err(Error::io("lock", path, &cause)),
    }
}

/// Who holds a lock that could not be had, as a sentence.
pub fn holder(path: &Path) -> String {
    match std::fs::read_to_string(path) {
        // It is written a moment after the lock is taken.
        Ok(owner) if owner.is_empty() => "It has not said yet what it is.".to_string(),
        Ok(owner) => format!("It is {owner}."),
        Err(cause) => format!("What it is could not be read: {cause}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Lock;

    #[test]
    fn the_holder_is_told_as_long_as_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert_eq!(held_by(&path).unwrap(), None);
        let lock = Lock::try_with_owner(&path, "me").unwrap();
        assert_eq!(held_by(&path).unwrap().as_deref(), Some("me"));
        assert_eq!(holder(&path), "It is me.");
        assert_eq!(holder(folder.path()), "What it is could not be read: Is a directory (os error 21).");
        drop(lock);
        assert_eq!(held_by(&path).unwrap(), None);
    }
}
