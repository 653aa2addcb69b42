//! What is needed of XML to understand a router: the text of elements by their names, nothing else.
//!
//! Documents come from strangers. They are read once from front to back, without a tree: depth, attributes, processing
//! instructions, declarations and entities of their own have no effect, so nothing in them can grow.

/// A piece of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// An element begins. The name is without its prefix.
    Begin(&'a str),
    /// An element ends.
    End(&'a str),
    /// Text as it stands, without the spaces around it.
    Text(&'a str),
}

/// The pieces of a document; ends early where it is broken.
pub(super) fn pieces(mut rest: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut ended = None;
    std::iter::from_fn(move || {
        loop {
            if let Some(name) = ended.take() {
                return Some(Piece::End(name));
            }
            let (text, tag) = rest.split_once('<').unwrap_or((rest, ""));
            if !text.trim().is_empty() {
                rest = &rest[text.len()..];
                return Some(Piece::Text(text.trim()));
            }
            if let Some(data) = tag.strip_prefix("![CDATA[") {
                let (text, after) = data.split_once("]]>")?;
                rest = after;
                return Some(Piece::Text(text.trim()));
            }
            if let Some(comment) = tag.strip_prefix("!--") {
                rest = comment.split_once("-->")?.1;
                continue;
            }
            let (tag, after) = tag.split_once('>')?;
            rest = after;
            match tag.as_bytes().first()? {
                b'?' | b'!' => {}
                b'/' => return Some(Piece::End(name(&tag[1..]))),
                _ => {
                    ended = tag.ends_with('/').then(|| name(tag));
                    return Some(Piece::Begin(name(tag)));
                }
            }
        }
    })
}

/// The name in a tag, without prefix and attributes.
fn name(tag: &str) -> &str {
    let name = tag.split(|c: char| c.is_ascii_whitespace() || c == '/').next().unwrap_or_default();
    name.rsplit(':').next().unwrap_or_default()
}

/// The text of the first element of this name that has any.
pub(super) fn text_of<'a>(document: &'a str, wanted: &str) -> Option<&'a str> {
    let mut is_there = false;
    for piece in pieces(document) {
        match piece {
            Piece::Begin(name) => is_there = name == wanted,
            Piece::Text(text) if is_there => return Some(text),
            _ => is_there = false,
        }
    }
    None
}

/// Text with the five entities that every document has put in their places.
pub(super) fn unescaped(text: &str) -> String {
    let plain = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    plain.replace("&amp;", "&")
}
