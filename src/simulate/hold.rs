//! Answers that are held back, until a test lets them go.

use crate::simulate::faults::PathRule;
use crate::simulate::query::Query;

/// Those of a path, or of one page of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    path: PathRule,
    page: Option<usize>,
}

impl Hold {
    /// As the query of a control call names them.
    pub fn of(query: &Query) -> Hold {
        let page = query.get("page").and_then(|page| page.parse().ok());
        Hold { path: PathRule::new(query.get("path").unwrap_or("/v2/")), page }
    }

    pub fn matches(&self, path: &str, page: usize) -> bool {
        self.path.matches(path) && self.page.is_none_or(|held| held == page)
    }
}
