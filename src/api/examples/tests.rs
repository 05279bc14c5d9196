//! What the documents show is what they say that is taken: of each example, that it has what its schema requires, nothing that it
//! does not know, and values of the right types. Ranges and patterns are the decoder's (`has_examples`).

use serde_json::{Value, json};

use super::{hyperv, kvm};

/// What is wrong with a value, by where it is.
fn wrong(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return wrong(document, &document["components"]["schemas"][name], value, at);
    }
    if let Some(choices) = schema.get("anyOf").or(schema.get("oneOf")).and_then(Value::as_array) {
        let of_each = choices.iter().map(|choice| wrong(document, choice, value, at));
        return of_each.min_by_key(Vec::len).unwrap_or_default();
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is = |wanted: &Value| *wanted == kind || *wanted == "number" && kind == "integer";
    let fits = match &schema["type"] {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(is),
        wanted => is(wanted),
    };
    if !fits {
        return vec![format!("{at} is {kind}, and not {}", schema["type"])];
    }
    match value {
        Value::Object(members) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let missing = required.filter(|name| !members.contains_key(*name)).map(|name| format!("{at} lacks {name}"));
            let of_members = members.iter().flat_map(|(name, value)| match schema["properties"].get(name) {
                Some(schema) => wrong(document, schema, value, &format!("{at}.{name}")),
                None if schema["additionalProperties"] == json!(false) => vec![format!("{at} knows no {name}")],
                None => Vec::new(),
            });
            missing.chain(of_members).collect()
        }
        Value::Array(items) if schema["items"].is_object() => {
            items.iter().flat_map(|item| wrong(document, &schema["items"], item, at)).collect()
        }
        _ => Vec::new(),
    }
}

/// Each schema that has examples, wherever it is.
fn shown<'a>(value: &'a Value, at: &str, found: &mut Vec<(String, &'a Value)>) {
    if value["examples"].is_array() {
        found.push((at.to_owned(), value));
    }
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| shown(value, &format!("{at}/{name}"), found)),
        Value::Array(items) => items.iter().for_each(|item| shown(item, at, found)),
        _ => {}
    }
}

#[test]
fn every_example_is_what_its_schema_takes() {
    for document in [kvm::openapi(), hyperv::openapi("/")] {
        let mut found = Vec::new();
        shown(&document, "", &mut found);
        assert!(found.len() > 3);
        let examples = found.iter().flat_map(|(at, schema)| {
            let examples = schema["examples"].as_array().into_iter().flatten();
            examples.flat_map(|example| wrong(&document, schema, example, at)).collect::<Vec<_>>()
        });
        assert_eq!(examples.collect::<Vec<_>>(), [] as [String; 0]);
    }
}

#[test]
fn what_is_missing_unknown_or_of_another_type_is_found() {
    let document = json!({ "components": { "schemas": { "Rate": {
        "type": "object", "required": ["in"], "additionalProperties": false,
        "properties": { "in": { "type": ["integer", "null"] } },
    } } } });
    let schema = json!({ "type": "object", "properties": {
        "rate": { "anyOf": [{ "$ref": "#/components/schemas/Rate" }, { "type": "null" }] },
    } });
    let of = |rate: Value| wrong(&document, &schema, &json!({ "rate": rate }), "x");
    assert_eq!(of(json!({ "in": null })), [] as [String; 0]);
    assert_eq!(of(json!(null)), [] as [String; 0]);
    assert_eq!(of(json!({})), ["x.rate lacks in"]);
    assert_eq!(of(json!({ "in": 1, "out": 1 })), ["x.rate knows no out"]);
    assert_eq!(of(json!({ "in": "1" })).len(), 1);
}
