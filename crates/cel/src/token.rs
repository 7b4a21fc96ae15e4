//! From text to tokens.

use crate::issue::Issue;

/// A token and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) at: u32,
    pub(crate) end: u32,
    pub(crate) kind: Tok,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tok {
    /// An operator or bracket.
    Sign(&'static str),
    /// A name; keywords (`true`, `in`, …) too.
    Ident(String),
    /// A name in backticks, which only fields have.
    Quoted(String),
    /// Digits with `0x` where written so; no sign.
    Int(String),
    Uint(String),
    Double(String),
    String(String),
    Bytes(Vec<u8>),
    End,
}

/// Longer ones first.
const SIGNS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",", "[", "]", "{", "}",
    "(", ")",
];

/// What is no token is reported this often at most.
const ISSUES_MAX: usize = 20;

/// All tokens of a text, the end among them. What is none is reported and left out.
pub(crate) fn tokens(source: &str, issues: &mut Vec<Issue>) -> Vec<Token> {
    let mut lexer = Lexer { source, at: 0 };
    let mut all = Vec::new();
    loop {
        match lexer.next() {
            Ok(token) if token.kind == Tok::End || issues.len() >= ISSUES_MAX => {
                all.push(Token { kind: Tok::End, ..token });
                return all;
            }
            Ok(token) => all.push(token),
            Err((issue, len)) => {
                issues.push(issue);
                lexer.at += len;
            }
        }
    }
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn next(&mut self) -> Result<Token, (Issue, usize)> {
        self.skip_space();
        let start = self.at;
        let kind = self.token()?;
        Ok(Token { at: start as u32, end: self.at as u32, kind })
    }

    fn token(&mut self) -> Result<Tok, (Issue, usize)> {
        let Some(c) = self.peek() else { return Ok(Tok::End) };
        let second = self.rest()[c.len_utf8()..].chars().next();
        if c.is_ascii_digit() || (c == '.' && second.is_some_and(|c| c.is_ascii_digit())) {
            return Ok(self.number());
        }
        if let Some(literal) = self.text()? {
            return Ok(literal);
        }
        if c.is_ascii_alphabetic() || c == '_' {
            let len = self.rest().bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
            return Ok(Tok::Ident(self.take(len).to_owned()));
        }
        if c == '`' {
            return self.quoted();
        }
        match SIGNS.iter().find(|sign| self.rest().starts_with(**sign)) {
            Some(sign) => {
                self.at += sign.len();
                Ok(Tok::Sign(sign))
            }
            None => Err(self.unknown(c.len_utf8())),
        }
    }

    fn take(&mut self, len: usize) -> &'s str {
        let start = self.at;
        self.at += len;
        &self.source[start..self.at]
    }

    /// What is no token, with its length.
    fn unknown(&self, len: usize) -> (Issue, usize) {
        let shown: String = self.rest()[..len].chars().take(100).collect();
        (Issue::new(self.at as u32, format!("Syntax error: token recognition error at: '{shown}'")), len)
    }

    fn quoted(&mut self) -> Result<Tok, (Issue, usize)> {
        let inner = &self.rest()[1..];
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-/ ".contains(&b);
        let len = inner.bytes().take_while(|b| allowed(*b)).count();
        if len == 0 || inner.as_bytes().get(len) != Some(&b'`') {
            return Err(self.unknown((1 + len).min(self.rest().len())));
        }
        let name = inner[..len].to_owned();
        self.at += len + 2;
        Ok(Tok::Quoted(name))
    }

    fn number(&mut self) -> Tok {
        let bytes = self.rest().as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
        if bytes[0] == b'0' && bytes.get(1) == Some(&b'x') {
            let len = 2 + bytes[2..].iter().take_while(|b| b.is_ascii_hexdigit()).count();
            if len > 2 {
                return self.integer(len);
            }
        }
        let whole = digits(0);
        let (mut len, mut real) = (whole, false);
        if bytes.get(len) == Some(&b'.') && digits(len + 1) > 0 {
            len += 1 + digits(len + 1);
            real = true;
        }
        if matches!(bytes.get(len), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(len + 1), Some(b'+' | b'-')));
            let exponent = if len + 1 + sign <= bytes.len() { digits(len + 1 + sign) } else { 0 };
            if exponent > 0 {
                len += 1 + sign + exponent;
                real = true;
            }
        }
        if real { Tok::Double(self.take(len).to_owned()) } else { self.integer(len) }
    }

    fn integer(&mut self, len: usize) -> Tok {
        let text = self.take(len).to_owned();
        if matches!(self.peek(), Some('u' | 'U')) {
            self.at += 1;
            return Tok::Uint(text);
        }
        Tok::Int(text)
    }

    /// A string or bytes literal with its prefixes, if one starts here.
    fn text(&mut self) -> Result<Option<Tok>, (Issue, usize)> {
        let rest = self.rest();
        let prefix = rest.bytes().take(2).take_while(|b| b"rRbB".contains(b)).count();
        let (letters, body) = rest.split_at(prefix);
        let Some(quote) = body.chars().next().filter(|c| *c == '"' || *c == '\'') else { return Ok(None) };
        let lower = letters.to_ascii_lowercase();
        if lower == "rr" || lower == "bb" {
            return Ok(None);
        }
        let (raw, bytes) = (lower.contains('r'), lower.contains('b'));
        let long = body.starts_with(&quote.to_string().repeat(3));
        let open = if long { 3 } else { 1 };
        let inner = &body[open..];
        let Some(len) = closing(inner, quote, long, raw) else { return Err(self.unknown(prefix + body.len())) };
        let content = &inner[..len];
        let unescaped = if raw {
            if bytes { Content::Bytes(content.as_bytes().to_vec()) } else { Content::Text(content.to_owned()) }
        } else {
            unescape(content, bytes).map_err(|why| (Issue::new(self.at as u32, why), prefix + open + len + open))?
        };
        self.at += prefix + open + len + open;
        Ok(Some(match unescaped {
            Content::Text(text) => Tok::String(text),
            Content::Bytes(bytes) => Tok::Bytes(bytes),
        }))
    }
}

/// Length of the content before the closing quotes.
fn closing(inner: &str, quote: char, long: bool, raw: bool) -> Option<usize> {
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if !raw => {
                chars.next()?;
            }
            '\n' | '\r' if !long => return None,
            c if c == quote && (!long || inner[at..].starts_with(&quote.to_string().repeat(3))) => return Some(at),
            _ => {}
        }
    }
    None
}

enum Content {
    Text(String),
    Bytes(Vec<u8>),
}

fn unescape(content: &str, bytes: bool) -> Result<Content, String> {
    let mut text = String::with_capacity(content.len());
    let mut raw = Vec::new();
    let mut chars = content.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
        } else {
            let letter = chars.next().ok_or("unable to unescape string, found '\\' as last character")?;
            escape(letter, &mut chars, bytes, &mut text, &mut raw)?;
        }
        if bytes && !text.is_empty() {
            raw.extend(std::mem::take(&mut text).bytes());
        }
    }
    Ok(if bytes { Content::Bytes(raw) } else { Content::Text(text) })
}

/// One escape sequence after its backslash; numbers of bytes literals are bytes, those of strings are characters.
fn escape(
    letter: char,
    chars: &mut std::str::Chars<'_>,
    bytes: bool,
    text: &mut String,
    raw: &mut Vec<u8>,
) -> Result<(), String> {
    let plain = match letter {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\\' | '\'' | '"' | '`' | '?' => letter,
        'x' | 'X' | 'u' | 'U' | '0'..='3' => {
            let (len, radix) = match letter {
                'x' | 'X' => (2, 16),
                'u' => (4, 16),
                'U' => (8, 16),
                _ => (2, 8),
            };
            let digits: String = chars.by_ref().take(len).collect();
            let digits = if radix == 8 { format!("{letter}{digits}") } else { digits };
            let wanted = if radix == 8 { 3 } else { len };
            if digits.len() != wanted || !digits.chars().all(|c| c.is_digit(radix)) {
                return Err("unable to unescape string".to_owned());
            }
            let code = u32::from_str_radix(&digits, radix).map_err(|_| "unable to unescape string".to_owned())?;
            if bytes && !matches!(letter, 'u' | 'U') {
                raw.push(code as u8);
                return Ok(());
            }
            if bytes {
                return Err("unable to unescape string".to_owned());
            }
            char::from_u32(code).ok_or("invalid unicode code point")?
        }
        _ => return Err("unable to unescape string".to_owned()),
    };
    text.push(plain);
    Ok(())
}
