//! A domain file, read with bounds: it comes from another program, or from somebody who says so.

use std::io::Read;

use roxmltree::{Document, Error, Node, ParsingOptions};

/// Bytes; the largest that libvirt writes have some 100 KiB.
const LARGEST: u64 = 4 << 20;
/// Elements, texts and comments.
const NODES: u32 = 100_000;
/// Elements within each other; libvirt's have 8.
pub const DEPTH: usize = 64;

/// The text of a file.
///
/// # Errors
/// In words, also for what is larger than a domain file ever is.
pub fn text(mut file: impl Read) -> Result<String, String> {
    let mut bytes = Vec::new();
    file.by_ref().take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| format!("it cannot be read: {error}"))?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!("it has more than {} MiB, which no domain file has", LARGEST >> 20));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("it is UTF-16, and libvirt writes UTF-8; convert it with iconv".into());
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8, as libvirt writes it".to_owned())?;
    let declared = text.strip_prefix("<?xml").and_then(|rest| rest.split("?>").next()).unwrap_or_default();
    let other = declared.split_once("encoding").is_some_and(|(_, rest)| {
        let value = rest.trim_start_matches(['=', ' ', '"', '\'']).to_ascii_lowercase();
        !(value.starts_with("utf-8") || value.starts_with("utf8") || value.starts_with("us-ascii"))
    });
    if other { Err("it says that it is not UTF-8; convert it with iconv".into()) } else { Ok(text) }
}

/// The document.
///
/// # Errors
/// In words.
pub fn document(text: &str) -> Result<Document<'_>, String> {
    // Before it is made a tree of, which takes memory by its depth.
    if depth(text) > DEPTH {
        return Err(format!("its elements are nested deeper than {DEPTH}, which no domain file's are"));
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).map_err(|error| match error {
        Error::DtdDetected => "it has a DTD, which no domain file has".to_owned(),
        Error::NodesLimitReached => format!("it has more than {NODES} elements, which no domain file has"),
        other => format!("it is no XML: {other}"),
    })
}

/// How deep tags are within each other, at most; of what is well-formed exactly.
fn depth(text: &str) -> usize {
    let (mut rest, mut now, mut most) = (text, 0_usize, 0);
    while let Some(at) = rest.find('<') {
        rest = &rest[at..];
        // Where a tag is that means nothing.
        let silent = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>"), ("<!", ">")];
        if let Some((begin, end)) = silent.into_iter().find(|(begin, _)| rest.starts_with(begin)) {
            let Some(at) = rest[begin.len()..].find(end) else { break };
            rest = &rest[begin.len() + at..];
            continue;
        }
        if rest.starts_with("</") {
            now = now.saturating_sub(1);
            rest = &rest[2..];
            continue;
        }
        let Some(end) = end_of_tag(rest) else { break };
        most = most.max(now + 1);
        if !rest[..end].ends_with('/') {
            now += 1;
        }
        rest = &rest[end..];
    }
    most
}

/// Where the `>` of a tag is; not one within the value of an attribute.
fn end_of_tag(tag: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in tag.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(begun), _) if begun == byte => quote = None,
            _ => {}
        }
    }
    None
}

/// The first child of that name.
pub fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    children(node).find(|child| child.tag_name().name() == name)
}

/// Its elements.
pub fn children<'a, 'i>(node: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(Node::is_element)
}

/// The elements of that name.
pub fn all<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    children(node).filter(move |child| child.tag_name().name() == name)
}

/// Its text, without the space around it; empty where there is none.
pub fn words<'a>(node: Node<'a, '_>) -> &'a str {
    node.text().unwrap_or_default().trim()
}

/// The text of a child of that name, where there is any.
pub fn said<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name).map(words).filter(|text| !text.is_empty())
}

/// An attribute of a child.
pub fn of_child<'a>(node: Node<'a, '_>, name: &str, attribute: &str) -> Option<&'a str> {
    child(node, name)?.attribute(attribute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> String {
        text(bytes).and_then(|text| document(&text).map(drop)).unwrap_err()
    }

    #[test]
    fn what_is_no_domain_file_is_refused_before_it_costs_anything() {
        let laughs = "<!DOCTYPE l [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;\">]><domain>&b;</domain>";
        assert!(refused(laughs.as_bytes()).contains("DTD"));
        let deep = format!("{}{}", "<a>".repeat(200_000), "</a>".repeat(200_000));
        assert!(refused(deep.as_bytes()).contains("nested deeper"));
        let wide = format!("<domain>{}</domain>", "<a/>".repeat(200_000));
        assert!(refused(wide.as_bytes()).contains("elements"));
        assert!(text(std::io::repeat(b' ')).unwrap_err().contains("more than 4 MiB"));
        assert!(refused(b"<domain>\xff</domain>").contains("not UTF-8"));
        assert!(refused(b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><domain/>").contains("not UTF-8"));
        assert!(refused(b"\xff\xfe<\0d\0").contains("UTF-16"));
        for broken in ["", "name: web", "<domain>", "<domain></devices>"] {
            assert!(refused(broken.as_bytes()).contains("no XML"), "{broken}");
        }
        assert_eq!(depth("<a><b/><c>1 &gt; 0</c><!-- x --></a>"), 2);
    }
}
