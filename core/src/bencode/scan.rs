//! The scanner: checks a document in one pass, and finds the ends of values in what has been checked.

use std::cmp::Ordering;

use super::{BencodeError, DEEPEST, Limits, MOST_ODDITIES, Oddity, OddityKind, Problem, Scanned, Value};

/// Checks a document. Bytes after its end are accepted and reported.
pub fn scan(bytes: &[u8], limits: Limits) -> Result<Scanned<'_>, BencodeError> {
    let (mut scanned, rest) = scan_prefix(bytes, limits)?;
    if !rest.is_empty() {
        let blank = rest.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0);
        let kind = if blank { OddityKind::TrailingSpace } else { OddityKind::TrailingBytes };
        report(&mut scanned.oddities, kind, bytes.len() - rest.len());
    }
    Ok(scanned)
}

/// Checks a document at the beginning of `bytes` and returns what follows it (BEP 9 puts data after a dictionary).
pub fn scan_prefix(bytes: &[u8], limits: Limits) -> Result<(Scanned<'_>, &[u8]), BencodeError> {
    if bytes.len() > limits.size {
        return Err(BencodeError { problem: Problem::TooLarge(limits.size), offset: limits.size });
    }
    let mut scanner = Scanner { bytes, at: 0, oddities: Vec::new() };
    scanner.document(limits).map_err(|problem| BencodeError { problem, offset: scanner.at })?;
    let (document, rest) = bytes.split_at(scanner.at);
    Ok((Scanned { root: Value { raw: document }, oddities: scanner.oddities }, rest))
}

fn report(oddities: &mut Vec<Oddity>, kind: OddityKind, offset: usize) {
    if oddities.len() < MOST_ODDITIES {
        oddities.push(Oddity { kind, offset });
    }
}

/// A list or dictionary that is still open.
#[derive(Clone, Copy)]
enum Open<'a> {
    List,
    /// The next value is a key; this was the last one.
    Key(Option<&'a [u8]>),
    /// The next value belongs to this key.
    Of(&'a [u8]),
}

struct Scanner<'a> {
    bytes: &'a [u8],
    /// Where the scan is; after an error, where the culprit begins.
    at: usize,
    oddities: Vec<Oddity>,
}

impl<'a> Scanner<'a> {
    fn document(&mut self, limits: Limits) -> Result<(), Problem> {
        let most_depth = limits.depth.min(DEEPEST);
        let mut open = [Open::List; DEEPEST];
        let mut depth = 0_usize;
        let mut items = 0;
        loop {
            let byte = *self.bytes.get(self.at).ok_or(Problem::Truncated)?;
            let top = depth.checked_sub(1).map(|top| &mut open[top]);
            if byte == b'e' {
                match top {
                    None => return Err(Problem::UnexpectedByte(byte)),
                    Some(Open::Of(_)) => return Err(Problem::MissingValue),
                    Some(Open::List | Open::Key(_)) => {}
                }
                self.at += 1;
                depth -= 1;
            } else {
                items += 1;
                if items > limits.items {
                    return Err(Problem::TooMany(limits.items));
                }
                match top {
                    Some(slot @ &mut Open::Key(before)) => {
                        *slot = Open::Of(self.key(byte, before)?);
                        continue;
                    }
                    // Already now: when the value is done, the next thing is a key again.
                    Some(slot @ &mut Open::Of(key)) => *slot = Open::Key(Some(key)),
                    Some(Open::List) | None => {}
                }
                match byte {
                    b'0'..=b'9' => self.string().map(|_| ())?,
                    b'i' => self.integer()?,
                    b'l' | b'd' if depth == most_depth => return Err(Problem::TooDeep(most_depth)),
                    b'l' | b'd' => {
                        open[depth] = if byte == b'l' { Open::List } else { Open::Key(None) };
                        depth += 1;
                        self.at += 1;
                    }
                    other => return Err(Problem::UnexpectedByte(other)),
                }
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn key(&mut self, first: u8, before: Option<&[u8]>) -> Result<&'a [u8], Problem> {
        if !first.is_ascii_digit() {
            return Err(Problem::KeyNotString);
        }
        let offset = self.at;
        let key = self.string()?;
        match before.map(|before| key.cmp(before)) {
            Some(Ordering::Less) => report(&mut self.oddities, OddityKind::UnorderedKey, offset),
            Some(Ordering::Equal) => report(&mut self.oddities, OddityKind::DuplicateKey, offset),
            Some(Ordering::Greater) | None => {}
        }
        Ok(key)
    }

    fn string(&mut self) -> Result<&'a [u8], Problem> {
        let rest = &self.bytes[self.at..];
        let mut length = 0_usize;
        let mut digits = 0;
        loop {
            match rest.get(digits) {
                Some(digit @ b'0'..=b'9') => {
                    let digit = usize::from(digit - b'0');
                    length = length.checked_mul(10).and_then(|l| l.checked_add(digit)).ok_or(Problem::BadLength)?;
                    digits += 1;
                }
                Some(b':') => break,
                Some(_) => return Err(Problem::BadLength),
                None => return Err(Problem::Truncated),
            }
        }
        let text = rest[digits + 1..].get(..length).ok_or(Problem::Truncated)?;
        if digits > 1 && rest[0] == b'0' {
            report(&mut self.oddities, OddityKind::LeadingZero, self.at);
        }
        self.at += digits + 1 + length;
        Ok(text)
    }

    fn integer(&mut self) -> Result<(), Problem> {
        let rest = &self.bytes[self.at + 1..];
        let minus = usize::from(rest.first() == Some(&b'-'));
        let digits = rest[minus..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        match rest.get(minus + digits) {
            Some(b'e') if digits > 0 => {}
            None => return Err(Problem::Truncated),
            _ => return Err(Problem::BadInteger),
        }
        if rest[minus] == b'0' && minus + digits > 1 {
            report(&mut self.oddities, OddityKind::LeadingZero, self.at);
        }
        self.at += minus + digits + 2;
        Ok(())
    }
}

/// The bytes of a string whose span is checked.
pub(super) fn string_of(raw: &[u8]) -> &[u8] {
    let colon = raw.iter().position(|byte| *byte == b':').map_or(raw.len(), |colon| colon + 1);
    &raw[colon..]
}

/// Cuts the first value off the checked inside of a list or dictionary; `None` at its `e`.
pub(super) fn take_value<'a>(rest: &mut &'a [u8]) -> Option<Value<'a>> {
    if matches!(rest.first(), None | Some(b'e')) {
        return None;
    }
    let bytes = *rest;
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'l' | b'd' => {
                depth += 1;
                at += 1;
            }
            b'e' => {
                depth -= 1;
                at += 1;
            }
            b'i' => at += bytes[at..].iter().position(|byte| *byte == b'e')? + 1,
            _ => {
                let mut length = 0;
                while bytes[at] != b':' {
                    length = length * 10 + usize::from(bytes[at] - b'0');
                    at += 1;
                }
                at += 1 + length;
            }
        }
        if depth == 0 {
            let (raw, after) = bytes.split_at(at);
            *rest = after;
            return Some(Value { raw });
        }
    }
}
