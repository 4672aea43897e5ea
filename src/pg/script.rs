//! `schema.sql` as a list of statements, as far as it must be one: which of them would begin or end a transaction.
//!
//! The file is run within the loader's transaction, all at once. A `commit` in it would make tables that stay when the load
//! fails, and leave the rest of the load without a transaction.

use crate::error::{Error, Result};

/// An error if a statement of the script begins or ends a transaction; `file` is how messages call it.
pub fn check(sql: &str, file: &str) -> Result<()> {
    let Some((line, command)) = transaction_control(sql) else { return Ok(()) };
    Err(Error::failed(format!("`{file}` has `{command}`: it would end the load's transaction, or begin another"))
        .at(format!("{file}:{line}"))
        .hint("Take `begin`, `commit` and `rollback` out of it: a load runs it in its own transaction."))
}

/// The first statement that begins or ends a transaction: its line, and its command.
fn transaction_control(sql: &str) -> Option<(usize, String)> {
    let mut statement = Statement::default();
    for token in Tokens::new(sql) {
        match token.kind {
            Kind::Word => statement.word(token.text.to_ascii_lowercase(), token.at),
            Kind::Open => statement.brackets += 1,
            Kind::Close => statement.brackets = statement.brackets.saturating_sub(1),
            Kind::End if statement.brackets == 0 && statement.blocks == 0 => {
                if let Some(found) = statement.control() {
                    return Some((line_of(sql, found.0), found.1));
                }
                statement = Statement::default();
            }
            Kind::End | Kind::Other => statement.other(),
        }
    }
    statement.control().map(|(at, command)| (line_of(sql, at), command))
}

fn line_of(sql: &str, at: usize) -> usize {
    sql[..at].matches('\n').count() + 1
}

/// How many of a statement's words are looked at: `create or replace function`.
const WORDS: usize = 4;

#[derive(Default)]
struct Statement {
    at: usize,
    /// The first words, in small letters.
    words: Vec<String>,
    /// Other than words has come: what follows are no first words.
    begun: bool,
    brackets: usize,
    /// `begin atomic … end` and `case … end` within a function's body, which has semicolons of its own.
    blocks: usize,
}

impl Statement {
    fn word(&mut self, word: String, at: usize) {
        if self.words.is_empty() && !self.begun {
            self.at = at;
        }
        if self.is_routine() {
            match word.as_str() {
                "begin" => self.blocks += 1,
                "case" if self.blocks > 0 => self.blocks += 1,
                "end" => self.blocks = self.blocks.saturating_sub(1),
                _ => {}
            }
        }
        if !self.begun && self.words.len() < WORDS {
            self.words.push(word);
        }
    }

    fn other(&mut self) {
        self.begun = true;
    }

    fn is_routine(&self) -> bool {
        self.words.first().is_some_and(|word| word == "create")
            && self.words.iter().any(|word| matches!(word.as_str(), "function" | "procedure"))
    }

    /// Where it stands and what it is called, if it begins or ends a transaction. One that goes back to a savepoint does
    /// neither.
    fn control(&self) -> Option<(usize, String)> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let command = match words.as_slice() {
            ["rollback", "to", ..] | ["rollback", "work" | "transaction", "to", ..] => return None,
            ["start", "transaction", ..] => "start transaction",
            ["prepare", "transaction", ..] => "prepare transaction",
            [word @ ("begin" | "commit" | "end" | "rollback" | "abort"), ..] => word,
            _ => return None,
        };
        Some((self.at, command.to_uppercase()))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A keyword, or a name without quotes.
    Word,
    Open,
    Close,
    /// A semicolon.
    End,
    /// Strings, quoted names, numbers, operators.
    Other,
}

struct Token<'a> {
    kind: Kind,
    at: usize,
    text: &'a str,
}

/// What a script is made of, without its comments (src/backend/parser/scan.l, `standard_conforming_strings` on).
struct Tokens<'a> {
    sql: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    fn new(sql: &'a str) -> Tokens<'a> {
        Tokens { sql, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.sql[self.at..]
    }

    /// Goes on behind the next `end`, or to the end of the script.
    fn skip_past(&mut self, end: &str) {
        self.at = self.rest().find(end).map_or(self.sql.len(), |place| self.at + place + end.len());
    }

    /// Comments are within each other.
    fn skip_comment(&mut self) {
        let mut depth = 0;
        while let Some(place) = self.rest().find(['*', '/']) {
            self.at += place;
            let (step, change) = match self.rest().as_bytes() {
                [b'/', b'*', ..] => (2, 1),
                [b'*', b'/', ..] => (2, -1),
                _ => (1, 0),
            };
            self.at += step;
            depth += change;
            if depth == 0 {
                return;
            }
        }
        self.at = self.sql.len();
    }

    /// To behind the closing quote; a doubled one is none, nor, in `e'…'`, one behind a backslash.
    fn skip_quoted(&mut self, quote: u8, escapes: bool) {
        let bytes = self.sql.as_bytes();
        self.at += 1;
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            match *byte {
                b'\\' if escapes => self.at += 1,
                byte if byte == quote && bytes.get(self.at) == Some(&quote) => self.at += 1,
                byte if byte == quote => return,
                _ => {}
            }
        }
        self.at = self.sql.len();
    }

    /// `$tag$ … $tag$`; a lone `$` is an operator, or stands before the number of a parameter.
    fn skip_dollars(&mut self) {
        let tag = self.rest()[1..].find('$').map(|end| &self.rest()[..end + 2]);
        match tag.filter(|tag| {
            let name = &tag[1..tag.len() - 1];
            !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(is_of_word)
        }) {
            Some(tag) => {
                self.at += tag.len();
                self.skip_past(tag);
            }
            None => self.at += 1,
        }
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || !c.is_ascii()
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            self.at += self.rest().len() - self.rest().trim_start().len();
            match self.rest() {
                rest if rest.starts_with("--") => self.skip_past("\n"),
                rest if rest.starts_with("/*") => self.skip_comment(),
                _ => break,
            }
        }
        let at = self.at;
        let first = self.rest().chars().next()?;
        let mut kind = Kind::Other;
        match first {
            '\'' => self.skip_quoted(b'\'', false),
            '"' => self.skip_quoted(b'"', false),
            'e' | 'E' if self.rest()[1..].starts_with('\'') => {
                self.at += 1;
                self.skip_quoted(b'\'', true);
            }
            '$' => self.skip_dollars(),
            '(' | ')' | ';' => {
                self.at += 1;
                kind = match first {
                    '(' => Kind::Open,
                    ')' => Kind::Close,
                    _ => Kind::End,
                };
            }
            c if is_of_word(c) => {
                let rest = self.rest();
                // A name may hold a `$`, but for its first character.
                self.at += rest.find(|c| !is_of_word(c) && c != '$').unwrap_or(rest.len());
                kind = if c.is_ascii_digit() { Kind::Other } else { Kind::Word };
            }
            c => self.at += c.len_utf8(),
        }
        Some(Token { kind, at, text: &self.sql[at..self.at.min(self.sql.len())] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sql: &str) -> Option<(usize, String)> {
        transaction_control(sql)
    }

    #[test]
    fn what_begins_or_ends_a_transaction_is_found_with_its_line() {
        for (sql, line, command) in [
            ("begin; create table a (id int); commit;", 1, "BEGIN"),
            ("create table a (id int);\n  Commit", 2, "COMMIT"),
            ("-- commit;\n/* a /* b */ ; */\n\nROLLBACK ;", 4, "ROLLBACK"),
            ("start transaction isolation level serializable;", 1, "START TRANSACTION"),
            ("create table a (t text default ';');\nend;", 2, "END"),
            ("create table \"a;\" (t text default e'it\\';');\nabort work;", 2, "ABORT"),
            ("do $$ begin null; end $$;\n prepare transaction 'x'", 2, "PREPARE TRANSACTION"),
            (
                "create function f() returns int begin atomic select case when true then 1 end; end;\ncommit;",
                2,
                "COMMIT",
            ),
            ("create rule r as on insert to a do also (select 1; select 2);\ncommit;", 2, "COMMIT"),
        ] {
            assert_eq!(found(sql), Some((line, command.to_string())), "{sql}");
        }
    }

    #[test]
    fn what_only_looks_like_it_is_none() {
        for sql in [
            "",
            ";;",
            "select 'x;\ncommit;\n'; -- ;commit",
            "create function f() returns void language plpgsql as $body$ begin; commit; end; $body$;",
            "create procedure p() begin atomic insert into a values (1); end;",
            "create or replace function f(a int) returns int begin atomic select a; select 2; end",
            "savepoint a; rollback to a; rollback work to savepoint a; release a;",
            "create table commit (\"end\" int); comment on table commit is 'begin; it''s; commit;';",
            "select $1; select 1 $ 2; select a$b; create table ends ();",
            "comment on table a is e'\\'; commit; --'",
            "/* commit;",
            "select '; commit",
            "select é'",
        ] {
            assert_eq!(found(sql), None, "{sql}");
        }
    }
}
