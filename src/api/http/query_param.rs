//! What a route says of the query parameters that it takes. `query` reads them.

/// A query parameter that a route takes. Whatever is not listed is refused with 400.
#[derive(Debug, Clone, Copy)]
pub struct QueryParam {
    pub name: &'static str,
    pub description: &'static str,
    pub kind: QueryKind,
    pub is_required: bool,
}

#[derive(Debug, Clone, Copy)]
pub enum QueryKind {
    Text,
    Integer,
    /// Both ends included.
    Whole(i64, i64),
    /// By a regular expression, as JSON Schema has them.
    Form(&'static str),
    Boolean,
    OneOf(&'static [&'static str]),
}

impl QueryParam {
    pub const fn text(name: &'static str, description: &'static str) -> Self {
        Self::new(name, description, QueryKind::Text)
    }
    pub const fn integer(name: &'static str, description: &'static str) -> Self {
        Self::new(name, description, QueryKind::Integer)
    }
    /// From `least` to `most`; refusing others is the handler's task.
    pub const fn whole(name: &'static str, least: i64, most: i64, description: &'static str) -> Self {
        Self::new(name, description, QueryKind::Whole(least, most))
    }
    /// Text of a form; refusing another is the handler's task.
    pub const fn form(name: &'static str, pattern: &'static str, description: &'static str) -> Self {
        Self::new(name, description, QueryKind::Form(pattern))
    }
    pub const fn boolean(name: &'static str, description: &'static str) -> Self {
        Self::new(name, description, QueryKind::Boolean)
    }
    /// The values are for the description; refusing others is the handler's enum's task.
    pub const fn one_of(name: &'static str, values: &'static [&'static str], description: &'static str) -> Self {
        Self::new(name, description, QueryKind::OneOf(values))
    }
    /// Refusing a request without it is the handler's task.
    pub const fn required(self) -> Self {
        Self { is_required: true, ..self }
    }
    const fn new(name: &'static str, description: &'static str, kind: QueryKind) -> Self {
        Self { name, description, kind, is_required: false }
    }
}
