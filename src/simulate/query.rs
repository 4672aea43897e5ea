//! Query strings: paging in both syntaxes, filters, sorting, ranges, and what is refused.

use percent_encoding::percent_decode_str;

/// The decoded parameters of a request, in their order.
#[derive(Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

/// Records on a page when nobody asks, and at most.
const DEFAULT_SIZE: usize = 30;
const MOST_SIZE: usize = 100;

impl Query {
    /// Reads a query string or a form: `+` is a space, `%5B` a bracket.
    pub fn parse(raw: &str) -> Query {
        let pairs = raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
        Query { pairs: pairs.collect() }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The parameters `what[field]=values`, as (field, values).
    pub fn fields<'a>(&'a self, what: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.pairs.iter().filter_map(move |(key, value)| {
            let field = key.strip_prefix(what)?.strip_prefix('[')?.strip_suffix(']')?;
            Some((field, value.as_str()))
        })
    }

    /// The page asked for, from 1; nonsense is the first page.
    pub fn page(&self) -> usize {
        self.number("page", "page[number]").unwrap_or(1)
    }

    /// Records to a page; more than 100 is cut without a word.
    pub fn per_page(&self) -> usize {
        self.number("per_page", "page[size]").unwrap_or(DEFAULT_SIZE).min(MOST_SIZE)
    }

    fn number(&self, plain: &str, bracketed: &str) -> Option<usize> {
        self.get(plain).or_else(|| self.get(bracketed))?.parse().ok().filter(|&number| number > 0)
    }
}

fn decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// The query string of another page: what was asked, with the paging replaced.
pub fn with_page(raw: &str, page: usize, per_page: usize) -> String {
    let is_paging = |pair: &&str| {
        matches!(
            decoded(pair.split('=').next().unwrap_or_default()).as_str(),
            "page" | "per_page" | "page[number]" | "page[size]"
        )
    };
    let mut pairs: Vec<String> =
        raw.split('&').filter(|pair| !pair.is_empty() && !is_paging(pair)).map(str::to_owned).collect();
    pairs.push(format!("page={page}"));
    pairs.push(format!("per_page={per_page}"));
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_paging_syntaxes_mean_the_same() {
        for raw in ["page=3&per_page=50", "page[number]=3&page[size]=50", "page%5Bnumber%5D=3&page%5Bsize%5D=50"] {
            let query = Query::parse(raw);
            assert_eq!((query.page(), query.per_page()), (3, 50), "{raw}");
        }
    }

    #[test]
    fn sizes_default_to_30_and_are_cut_to_100() {
        assert_eq!(Query::parse("").per_page(), 30);
        assert_eq!(Query::parse("per_page=1000").per_page(), 100);
        assert_eq!((Query::parse("page=0&per_page=-1").page(), Query::parse("per_page=-1").per_page()), (1, 30));
    }

    #[test]
    fn filters_are_read_percent_encoded_or_not() {
        let query = Query::parse("filter[active]=true&filter%5Bpublic%5D=true&sort=id");
        assert_eq!(query.fields("filter").collect::<Vec<_>>(), [("active", "true"), ("public", "true")]);
    }

    #[test]
    fn links_keep_what_was_asked() {
        let raw = "filter%5Bactive%5D=true&page%5Bsize%5D=10&page=2";
        assert_eq!(with_page(raw, 3, 10), "filter%5Bactive%5D=true&page=3&per_page=10");
    }
}
