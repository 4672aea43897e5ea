//! A table as it is read: its rows in COPY's binary form, in the order of the key.

use std::io::BufRead;

use postgres::{CopyOutReader, Transaction};

use super::tuple;
use crate::error::{Error, Result};
use crate::pg::failure;

pub struct Rows<'a> {
    reader: CopyOutReader<'a>,
    /// As messages name it.
    name: String,
    /// What was received and not taken yet, from `at` on.
    received: Vec<u8>,
    at: usize,
    /// The length of the row at `at`; none before the first and after the last.
    length: Option<usize>,
    started: bool,
    pub count: u64,
}

impl<'a> Rows<'a> {
    /// The rows of `query`, which is what stands between the brackets of `copy (…)`. `name` is what is read.
    pub fn open(tx: &'a mut Transaction, query: &str, name: &str) -> Result<Rows<'a>> {
        let reader = tx.copy_out(&format!("copy ({query}) to stdout (format binary)"));
        Ok(Rows {
            reader: reader.map_err(|error| failure(&format!("could not read `{name}`"), &error))?,
            name: name.to_string(),
            received: Vec::new(),
            at: 0,
            length: None,
            started: false,
            count: 0,
        })
    }

    /// Goes to the next row, if there is one.
    pub fn advance(&mut self) -> Result<()> {
        self.at += self.length.take().unwrap_or(0);
        loop {
            let rest = &self.received[self.at..];
            if !self.started && rest.len() >= tuple::HEADER.len() {
                self.started = true;
                self.at += tuple::HEADER.len();
                continue;
            }
            if self.started {
                if rest == tuple::TRAILER {
                    return Ok(());
                }
                if let Some(length) = tuple::length(rest) {
                    self.length = Some(length);
                    self.count += 1;
                    return Ok(());
                }
            }
            self.receive()?;
        }
    }

    /// The row that [`Rows::advance`] has gone to.
    pub fn row(&self) -> Option<&[u8]> {
        Some(&self.received[self.at..self.at + self.length?])
    }

    fn receive(&mut self) -> Result<()> {
        self.received.drain(..self.at);
        self.at = 0;
        let name = &self.name;
        let bytes = self.reader.fill_buf().map_err(|cause| {
            let of_server = cause.get_ref().and_then(|cause| cause.downcast_ref::<postgres::Error>());
            match of_server {
                Some(error) => failure(&format!("could not read `{name}`"), error),
                None => Error::failed(format!("could not read `{name}`: {cause}")),
            }
        })?;
        if bytes.is_empty() {
            return Err(Error::failed(format!("could not read `{name}`: the server stopped in the middle of a row")));
        }
        self.received.extend_from_slice(bytes);
        let length = bytes.len();
        self.reader.consume(length);
        Ok(())
    }
}
