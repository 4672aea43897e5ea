//! Addresses of further pages, as a server names them.

/// The address with relation `next` in a `Link` header (RFC 8288).
pub fn next(header: &str) -> Option<&str> {
    let mut rest = header;
    loop {
        let (address, after) = rest.split_once('<')?.1.split_once('>')?;
        // The parameters go on until the next address: a comma within quotes is no end of them.
        let end = after.find('<').unwrap_or(after.len());
        let (parameters, following) = after.split_at(end);
        let relation = parameters.split(';').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            let value = value.trim().trim_end_matches(',').trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel").then_some(value)
        });
        if relation.is_some_and(|names| names.split_ascii_whitespace().any(|name| name.eq_ignore_ascii_case("next"))) {
            return Some(address);
        }
        rest = following;
    }
}

/// The full address that `link` means in an answer to `url`; none unless it is on the same server.
pub fn resolve(url: &str, link: &str) -> Option<String> {
    let origin = origin(url)?;
    if link.contains("://") {
        return (self::origin(link)? == origin).then(|| link.to_string());
    }
    match link.as_bytes() {
        [b'/', b'/', ..] => None,
        [b'/', ..] => Some(format!("{origin}{link}")),
        [b'?', ..] => Some(format!("{}{link}", url.split('?').next()?)),
        _ => None,
    }
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<&str> {
    let host = url.find("://")? + 3;
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |end| host + end);
    Some(&url[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_told_from_the_others() {
        let header = "<http://h/a?page=1>; rel=\"first\", <http://h/a?page=2,3>; title=\"a, b\"; rel=\"next\", <http://h/z>; rel=last";
        assert_eq!(next(header), Some("http://h/a?page=2,3"));
        assert_eq!(next("</x>; rel=\"prev next\""), Some("/x"));
        assert_eq!(next("</x>;REL=NEXT"), Some("/x"));
        for none in ["", "</x>; rel=last", "</x>", "<", "next"] {
            assert_eq!(next(none), None, "{none}");
        }
    }

    #[test]
    fn a_link_stays_on_its_server() {
        let resolved = |link| resolve("http://h:1/api/a?page=1", link);
        assert_eq!(resolved("http://h:1/b?x=2").as_deref(), Some("http://h:1/b?x=2"));
        assert_eq!(resolved("/b?x=2").as_deref(), Some("http://h:1/b?x=2"));
        assert_eq!(resolved("?page=2").as_deref(), Some("http://h:1/api/a?page=2"));
        for elsewhere in ["http://h:2/b", "https://h:1/b", "http://h:1@evil/b", "http://h:1.evil/", "//evil/b", "b", ""]
        {
            assert_eq!(resolved(elsewhere), None, "{elsewhere}");
        }
    }
}
