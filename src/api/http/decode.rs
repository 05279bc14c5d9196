//! A tree of JSON to a handler's type, with objections that a person can act upon.
//!
//! It is a serde `Deserializer` of our own rather than serde_json's, for one reason: serde hands an error to the
//! deserializer's error type as facts (which field, what was found, what is known), and serde_json flattens them into
//! English that one would then have to parse. Here the facts are kept, with the path to the place.
//!
//! Two things are stricter than derive alone: a field that a struct does not have is refused without
//! `deny_unknown_fields`, and an array is no substitute for an object. Not covered, because serde buffers there:
//! inside `#[serde(flatten)]`, untagged and internally tagged types the path ends at the outer field, and unknown
//! fields need the attribute.
//!
//! It does not check ranges or meaning: that is the domain's task.

use std::collections::HashSet;

use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{
    self, Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use super::HttpError;
use super::fault::Fault;
use super::json::{self, Node};

/// What a null says (ruling 38).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nulls {
    /// As much as if its field were not there: in what makes something, or acts.
    Absent,
    /// In a change: a field of the body itself that is null is cleared, where its type has room for that
    /// (`Option<Option<T>>`, by [`given`]). Further inside it is absent.
    Clear,
}

/// Reads a body that has to be a JSON object.
pub fn object<T: DeserializeOwned>(bytes: &[u8], nulls: Nulls) -> Result<T, HttpError> {
    object_beside(bytes, nulls, &[]).map(|(read, _)| read)
}

/// The same, with the members of these names taken out before, each of which may be there once.
pub fn object_beside<T: DeserializeOwned>(
    bytes: &[u8],
    nulls: Nulls,
    names: &[&str],
) -> Result<(T, Vec<(String, Value)>), HttpError> {
    match json::parse(bytes)? {
        Node::Object(members) => {
            let (beside, members): (Vec<_>, _) =
                members.into_iter().partition(|(name, _)| names.contains(&name.as_str()));
            if let Some(twice) = names.iter().find(|name| beside.iter().filter(|(other, _)| other == *name).count() > 1)
            {
                return Err(HttpError::invalid(*twice, "be given only once"));
            }
            let beside = beside.into_iter().map(|(name, node)| (name, node.into_value())).collect();
            let mut node = Node::Object(members);
            node.absent_nulls(match nulls {
                Nulls::Absent => 0,
                Nulls::Clear => 1,
            });
            from_node(node).map(|read| (read, beside))
        }
        other => Err(HttpError::NotAnObject { found: other.kind().to_owned() }),
    }
}

fn from_node<T: DeserializeOwned>(node: Node) -> Result<T, HttpError> {
    T::deserialize(node).map_err(HttpError::from)
}

impl Node {
    fn unexpected(&self) -> Unexpected<'_> {
        match self {
            Node::Null | Node::Absent => Unexpected::Unit,
            Node::Bool(b) => Unexpected::Bool(*b),
            Node::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(n), ..) => Unexpected::Unsigned(n),
                (_, Some(n), _) => Unexpected::Signed(n),
                (.., n) => Unexpected::Float(n.unwrap_or(f64::INFINITY)),
            },
            Node::Text(s) => Unexpected::Str(s),
            Node::Array(_) => Unexpected::Seq,
            Node::Object(_) => Unexpected::Map,
        }
    }
}

impl<'de> Deserializer<'de> for Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self {
            Node::Null | Node::Absent => visitor.visit_unit(),
            Node::Bool(b) => visitor.visit_bool(b),
            Node::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(n), ..) => visitor.visit_u64(n),
                (_, Some(n), _) => visitor.visit_i64(n),
                (.., n) => visitor.visit_f64(n.unwrap_or(f64::INFINITY)),
            },
            Node::Text(s) => visitor.visit_string(s),
            Node::Array(items) => visitor.visit_seq(Items { index: 0, rest: items.into_iter() }),
            Node::Object(members) => visitor.visit_map(Members::new(members, None)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self {
            Node::Null | Node::Absent => visitor.visit_none(),
            some => visitor.visit_some(some),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    /// Serde's derive would also take an array for a struct, field by field: nobody means that.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self {
            Node::Object(members) => visitor.visit_map(Members::new(members, Some(fields))),
            other => Err(de::Error::invalid_type(other.unexpected(), &visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self {
            Node::Text(s) => {
                let variant: StringDeserializer<Fault> = s.into_deserializer();
                visitor.visit_enum(variant)
            }
            Node::Object(members) if members.len() == 1 => {
                visitor.visit_enum(MapAccessDeserializer::new(Members::new(members, None)))
            }
            other => Err(Fault::not_one_of(variants, other.unexpected())),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// Of any list in a body. Most have a narrower bound of their own, which is the domain's to tell.
const MOST_ENTRIES: usize = 1024;

struct Items {
    index: usize,
    rest: std::vec::IntoIter<Node>,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.rest.next() else {
            return Ok(None);
        };
        let index = self.index;
        if index == MOST_ENTRIES {
            return Err(Fault::must(format!("have at most {MOST_ENTRIES} entries")));
        }
        self.index += 1;
        seed.deserialize(item).map(Some).map_err(|fault| fault.inside_index(index))
    }
}

struct Members {
    rest: std::vec::IntoIter<(String, Node)>,
    /// Keys of a map, which nobody else would miss.
    seen: HashSet<String>,
    /// The fields of the struct that is being filled; `None` for a map, which takes any.
    fields: Option<&'static [&'static str]>,
    value: Option<(String, Node)>,
}

impl Members {
    fn new(members: Vec<(String, Node)>, fields: Option<&'static [&'static str]>) -> Self {
        Self { rest: members.into_iter(), seen: HashSet::new(), fields, value: None }
    }
}

impl<'de> MapAccess<'de> for Members {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let (key, node) = loop {
            let Some((key, node)) = self.rest.next() else {
                return Ok(None);
            };
            if let Some(fields) = self.fields
                && !fields.contains(&key.as_str())
            {
                return Err(de::Error::unknown_field(&key, fields));
            }
            if self.fields.is_none() && !self.seen.insert(key.clone()) {
                return Err(Fault::must("be given only once").inside_key(&key));
            }
            if node != Node::Absent {
                break (key, node);
            }
        };
        let name: StringDeserializer<Fault> = key.clone().into_deserializer();
        self.value = Some((key, node));
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        // Serde's contract is key, then value; a visitor that breaks it gets an error, not a panic.
        let (key, node) =
            self.value.take().ok_or_else(|| <Fault as de::Error>::custom("a value was asked for before its key"))?;
        let null = node == Node::Null && self.fields.is_some();
        seed.deserialize(node).map_err(|fault| {
            // What cannot be cleared is not there.
            let fault = if null { Fault::must("be given") } else { fault };
            fault.inside_key(&key)
        })
    }
}

/// For a field of a change that null clears: a null that is there is `Some(None)`, a field that is not is `None`.
pub fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// For a field of a change that null sets back to its default.
pub fn or_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests;
