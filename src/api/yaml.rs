//! JSON as YAML in block style, for people to read. What becomes of odd characters on a terminal is `cli::output`'s matter.

use saphyr::{Mapping, Scalar, Yaml, YamlEmitter};
use serde_json::Value;

/// # Errors
/// What the emitter says.
pub fn text(value: &Value) -> Result<String, String> {
    let mut text = String::new();
    YamlEmitter::new(&mut text).dump(&yaml(value)).map_err(|error| error.to_string())?;
    text.push('\n');
    Ok(text.strip_prefix("---\n").map(str::to_owned).unwrap_or(text))
}

fn yaml(value: &Value) -> Yaml<'_> {
    match value {
        Value::Null => Yaml::Value(Scalar::Null),
        Value::Bool(value) => Yaml::Value(Scalar::Boolean(*value)),
        Value::Number(number) => Yaml::Value(match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Scalar::Integer(whole),
            (None, Some(number)) => Scalar::FloatingPoint(number.into()),
            (None, None) => Scalar::String(number.to_string().into()),
        }),
        Value::String(text) => Yaml::Value(Scalar::String(text.as_str().into())),
        Value::Array(items) => Yaml::Sequence(items.iter().map(yaml).collect()),
        Value::Object(members) => {
            let member = |(name, value)| (Yaml::Value(Scalar::String(String::as_str(name).into())), yaml(value));
            Yaml::Mapping(members.iter().map(member).collect::<Mapping>())
        }
    }
}

#[cfg(test)]
mod tests {
    use saphyr::LoadableYamlNode;
    use serde_json::json;

    use super::*;

    #[test]
    fn types_stay_apart() {
        let value = json!({ "a": 1, "b": "1", "c": [true, "true", null, "null", 1.5], "d": {}, "e": "x: y\n- z" });
        let [read]: [Yaml; 1] = Vec::try_into(Yaml::load_from_str(&text(&value).unwrap()).unwrap()).unwrap();
        assert_eq!(read["a"].as_integer(), Some(1));
        assert_eq!(read["b"].as_str(), Some("1"));
        assert_eq!(read["c"][1].as_str(), Some("true"));
        assert!(read["c"][2].is_null() && read["c"][3].as_str() == Some("null"));
        assert_eq!(read["e"].as_str(), Some("x: y\n- z"));
    }
}
