//! Query strings: split, checked against what the route knows, and decoded into a handler's type.
//!
//! A value is text; which type it has is decided by the field it goes to, with the same sentences as for a body.

use serde::de::value::{MapDeserializer, StringDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::HttpError;
use super::fault::Fault;
use super::json::{self, Node};
use super::query_param::QueryParam;

/// The parameters of a query in their order, none of them unknown and none given twice.
pub fn parse(raw: &str, known: &[QueryParam]) -> Result<Vec<(String, String)>, HttpError> {
    let mut params: Vec<(String, String)> = Vec::new();
    for (name, value) in form_urlencoded::parse(raw.as_bytes()) {
        if !known.iter().any(|param| param.name == name) {
            let names: Vec<&str> = known.iter().map(|param| param.name).collect();
            let shown: String = name.chars().take(64).collect();
            return Err(HttpError::unknown(shown, &name, &names));
        }
        if params.iter().any(|(given, _)| *given == name) {
            return Err(HttpError::invalid(name, "be given only once"));
        }
        params.push((name.into_owned(), value.into_owned()));
    }
    Ok(params)
}

/// Fields that `T` does not have are passed over: what a route takes is its table line's `query` list.
pub fn decode<T: DeserializeOwned>(params: &[(String, String)]) -> Result<T, HttpError> {
    let pairs = params.iter().map(|(name, value)| (name.clone(), Text { name: name.clone(), value: value.clone() }));
    T::deserialize(MapDeserializer::<_, Fault>::new(pairs)).map_err(HttpError::from)
}

#[derive(Clone)]
struct Text {
    name: String,
    value: String,
}

impl Text {
    /// serde's map deserializer does not know paths, so the name is added here.
    fn named<T>(name: &str, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|fault| fault.inside_key(name))
    }
}

impl<'de> IntoDeserializer<'de, Fault> for Text {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! whole_numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let result = if let Ok(n) = self.value.parse::<u64>() {
                visitor.visit_u64(n)
            } else if let Ok(n) = self.value.parse::<i64>() {
                visitor.visit_i64(n)
            } else if let Ok(Node::Number(number)) = json::parse(self.value.as_bytes())
                && let Some(n) = number.as_i64()
            {
                // 2.0 and 1e3, as in a body.
                visitor.visit_i64(n)
            } else if is_digits(&self.value) {
                // Too large for 64 bits: as a JSON number it would have arrived as a float.
                visitor.visit_f64(1e30)
            } else {
                Err(de::Error::invalid_type(Unexpected::Str(&self.value), &visitor))
            };
            Self::named(&self.name, result)
        }
    )*};
}

fn is_digits(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

impl<'de> Deserializer<'de> for Text {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        Self::named(&self.name, visitor.visit_string(self.value))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match self.value.as_str() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            other => Err(de::Error::invalid_type(Unexpected::Str(other), &visitor)),
        };
        Self::named(&self.name, result)
    }

    whole_numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match self.value.parse::<f64>() {
            Ok(n) if n.is_finite() => visitor.visit_f64(n),
            _ => Err(de::Error::invalid_type(Unexpected::Str(&self.value), &visitor)),
        };
        Self::named(&self.name, result)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let variant: StringDeserializer<Fault> = self.value.into_deserializer();
        Self::named(&self.name, visitor.visit_enum(variant))
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    const KNOWN: &[QueryParam] = &[
        QueryParam::boolean("force", "Cuts power at once."),
        QueryParam::integer("timeout", "Seconds."),
        QueryParam::text("name", "The name."),
        QueryParam::text("order", "The order."),
    ];

    #[derive(Debug, Deserialize, PartialEq)]
    struct Stop {
        force: Option<bool>,
        timeout: Option<i64>,
        name: Option<String>,
        order: Option<Order>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Order {
        Up,
        Down,
    }

    fn read(raw: &str) -> Result<Stop, String> {
        parse(raw, KNOWN).and_then(|params| decode(&params)).map_err(|err| err.message())
    }

    #[test]
    fn values_are_decoded_by_the_type_of_their_field() {
        let stop = Stop { force: Some(true), timeout: Some(-5), name: Some("a b&c".into()), order: Some(Order::Down) };
        assert_eq!(read("force=true&timeout=-5&name=a+b%26c&order=down"), Ok(stop));
        let none = Stop { force: None, timeout: None, name: None, order: None };
        assert_eq!(read(""), Ok(none));
        for (raw, seconds) in [("timeout=2.0", 2), ("timeout=1e3", 1000), ("timeout=-5e0", -5)] {
            assert_eq!(read(raw).unwrap().timeout, Some(seconds), "{raw}");
        }
        assert_eq!(read("name=7").unwrap().name.as_deref(), Some("7"));
    }

    #[test]
    fn objections_name_the_parameter() {
        for (raw, expected) in [
            ("force=yes", "force must be true or false, not \"yes\"."),
            ("force", "force must be true or false, not \"\"."),
            ("timeout=soon", "timeout must be a whole number, not \"soon\"."),
            ("timeout=1.5", "timeout must be a whole number, not \"1.5\"."),
            ("timeout=99999999999999999999", "timeout must be a whole number within range."),
            ("order=left", "order must be one of up, down, not \"left\"."),
            ("force=true&force=true", "force must be given only once."),
            ("forse=true", "forse is not known; did you mean force?"),
            ("x=1", "x is not known; known here: force, timeout, name, order."),
        ] {
            assert_eq!(read(raw), Err(format!("Invalid parameter: {expected}")), "{raw}");
        }
        assert_eq!(
            parse("x=1", &[]).unwrap_err().message(),
            "Invalid parameter: x is not known; none is expected here."
        );
    }
}
