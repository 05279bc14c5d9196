//! One test per kind of objection, each with the very sentence a client reads.

use serde::Deserialize;
use std::collections::BTreeMap;

use super::*;

#[derive(Debug, Deserialize)]
struct Vm {
    vcpus: i64,
    #[serde(default, alias = "mem")]
    memory: Option<u32>,
    small: Option<u8>,
    ratio: Option<f64>,
    start: Option<bool>,
    base_image: Option<String>,
    cpu_pinning: Option<Pinning>,
    kind: Option<Choice>,
    #[allow(dead_code)]
    id: Option<uuid::Uuid>,
    labels: Option<BTreeMap<String, String>>,
    pair: Option<(i64, i64)>,
    disks: Option<Vec<Disk>>,
}

#[derive(Debug, Deserialize)]
struct Pinning {
    cores: Vec<i64>,
}

#[derive(Debug, Deserialize)]
struct Disk {
    size: std::num::NonZeroU32,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Choice {
    Internal,
    Private,
    Sized { mib: i64 },
}

fn read(text: &str) -> Result<Vm, HttpError> {
    object(text.as_bytes(), Nulls::Clear)
}

fn sentence(text: &str) -> String {
    match read(text) {
        Err(err) => err.message(),
        Ok(vm) => panic!("{text} was taken: {vm:?}"),
    }
}

#[test]
fn what_fits_is_taken() {
    let vm = read(
        r#"{"vcpus":-5,"mem":16,"ratio":2,"start":true,"base_image":"/a","cpu_pinning":{"cores":[0,1]},
            "kind":{"sized":{"mib":3}},"labels":{"a":"b"},"pair":[1,2],"disks":[{"size":1}],"small":null}"#,
    )
    .unwrap();
    assert_eq!(vm.vcpus, -5, "ranges are the domain's task");
    assert_eq!((vm.memory, vm.small, vm.ratio), (Some(16), None, Some(2.0)));
    assert_eq!(vm.start, Some(true));
    assert_eq!(vm.base_image.as_deref(), Some("/a"));
    assert_eq!(vm.cpu_pinning.unwrap().cores, [0, 1]);
    assert_eq!(vm.kind, Some(Choice::Sized { mib: 3 }));
    assert_eq!(vm.labels.unwrap()["a"], "b");
    assert_eq!(vm.pair, Some((1, 2)));
    assert_eq!(vm.disks.unwrap()[0].size.get(), 1);
}

#[test]
fn a_wrong_whole_number_is_told_as_such() {
    for (value, must) in [
        ("2.5", "be a whole number, not 2.5"),
        ("\"2\"", "be a whole number, not \"2\""),
        ("true", "be a whole number, not true"),
        ("null", "be given"),
        ("[]", "be a whole number, not an array"),
        ("{}", "be a whole number, not an object"),
        ("1e30", "be a whole number within range"),
        ("99999999999999999999", "be a whole number within range"),
        ("-99999999999999999999", "be a whole number within range"),
        ("18446744073709551615", "be a whole number within range"),
    ] {
        assert_eq!(sentence(&format!("{{\"vcpus\":{value}}}")), format!("Invalid parameter: vcpus must {must}."));
    }
}

#[test]
fn a_narrow_whole_number_tells_its_range() {
    let s = |field: &str| sentence(&format!("{{\"vcpus\":1,{field}}}"));
    assert_eq!(s("\"small\":256"), "Invalid parameter: small must be a whole number from 0 to 255.");
    assert_eq!(s("\"small\":-1"), "Invalid parameter: small must be a whole number of at least 0.");
    assert_eq!(
        s("\"disks\":[{\"size\":1},{\"size\":0}]"),
        "Invalid parameter: disks[1].size must be a whole number of at least 1."
    );
}

#[test]
fn a_wrong_type_names_the_place_and_the_expectation() {
    for (field, expected) in [
        ("\"cpu_pinning\":{\"cores\":[\"x\"]}", "cpu_pinning.cores[0] must be a whole number, not \"x\""),
        ("\"cpu_pinning\":{\"cores\":3}", "cpu_pinning.cores must be an array, not 3"),
        ("\"cpu_pinning\":[[0]]", "cpu_pinning must be an object, not an array"),
        ("\"cpu_pinning\":7", "cpu_pinning must be an object, not 7"),
        ("\"start\":\"yes\"", "start must be true or false, not \"yes\""),
        ("\"start\":1", "start must be true or false, not 1"),
        ("\"base_image\":1", "base_image must be a string, not 1"),
        ("\"ratio\":\"half\"", "ratio must be a number, not \"half\""),
        ("\"labels\":{\"a\":1}", "labels.a must be a string, not 1"),
        ("\"labels\":[]", "labels must be an object, not an array"),
        ("\"kind\":\"public\"", "kind must be one of internal, private, sized, not \"public\""),
        ("\"kind\":4", "kind must be one of internal, private, sized, not 4"),
        ("\"kind\":{\"sized\":{\"mib\":\"a\"}}", "kind.sized.mib must be a whole number, not \"a\""),
        ("\"pair\":[1]", "pair must be an array of 2 elements, not of 1 elements"),
        ("\"disks\":[5]", "disks[0] must be an object, not 5"),
    ] {
        assert_eq!(sentence(&format!("{{\"vcpus\":1,{field}}}")), format!("Invalid parameter: {expected}."));
    }
}

#[test]
fn a_type_may_say_itself_what_is_wrong() {
    let s = sentence(r#"{"vcpus":1,"id":"abc"}"#);
    assert!(s.starts_with("Invalid parameter: id must be valid: UUID parsing failed"), "{s}");

    #[derive(Debug, Deserialize)]
    #[serde(try_from = "i64")]
    struct Even;
    impl TryFrom<i64> for Even {
        type Error = &'static str;
        fn try_from(n: i64) -> Result<Self, Self::Error> {
            (n % 2 == 0).then_some(Even).ok_or("must be even.")
        }
    }
    #[derive(Debug, Deserialize)]
    struct Holder {
        #[allow(dead_code)]
        n: Even,
    }
    assert_eq!(
        object::<Holder>(br#"{"n":3}"#, Nulls::Absent).unwrap_err().message(),
        "Invalid parameter: n must be even."
    );
}

#[test]
fn an_unknown_field_is_named_with_what_was_meant_or_is_known() {
    assert_eq!(
        sentence(r#"{"vcpus":1,"cpu_pinning":{"core":[]}}"#),
        "Invalid parameter: cpu_pinning.core is not known; did you mean cores?"
    );
    assert_eq!(
        sentence(r#"{"vcpus":1,"disks":[{"colour":1}]}"#),
        "Invalid parameter: disks[0].colour is not known; known here: size."
    );
    let Err(HttpError::UnknownParameter { known, .. }) = read(r#"{"zzz":1}"#) else { panic!("zzz was taken") };
    assert!(known.contains(&"base_image".to_owned()) && known.contains(&"mem".to_owned()));
}

#[test]
fn a_missing_field_must_be_given() {
    assert_eq!(sentence("{}"), "Invalid parameter: vcpus must be given.");
    assert_eq!(sentence(r#"{"vcpus":1,"disks":[{}]}"#), "Invalid parameter: disks[0].size must be given.");
}

#[test]
fn a_field_given_twice_is_refused_also_under_its_other_name() {
    assert_eq!(sentence(r#"{"vcpus":1,"vcpus":2}"#), "Invalid parameter: vcpus must be given only once.");
    assert_eq!(sentence(r#"{"vcpus":1,"memory":1,"mem":2}"#), "Invalid parameter: memory must be given only once.");
}

#[test]
fn a_body_that_is_no_object_says_what_it_is() {
    for (body, found) in [("[1]", "an array"), ("null", "null"), ("3", "a number"), ("\"a\"", "a string")] {
        assert_eq!(sentence(body), format!("The body must be a JSON object, not {found}."));
    }
}

#[test]
fn a_null_is_absent_in_what_makes_and_clears_in_what_changes() {
    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Change {
        #[serde(deserialize_with = "given")]
        limits: Option<Option<i64>>,
        #[serde(deserialize_with = "or_default")]
        notes: String,
        start: bool,
        size: Option<i64>,
        inner: Option<Inner>,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    struct Inner {
        #[serde(default)]
        order: i64,
        #[serde(default, deserialize_with = "given")]
        limits: Option<Option<i64>>,
    }
    let body = br#"{"limits":null,"notes":null,"size":null,"inner":{"order":null,"limits":null}}"#;
    let inner = Some(Inner { order: 0, limits: None });
    let made = Change { inner, ..Change::default() };
    assert_eq!(object(body, Nulls::Absent), Ok(made));
    let inner = Some(Inner { order: 0, limits: None });
    let changed = Change { limits: Some(None), inner, ..Change::default() };
    assert_eq!(object(body, Nulls::Clear), Ok(changed));

    let refused = |body: &str, nulls| object::<Change>(body.as_bytes(), nulls).unwrap_err().message();
    assert_eq!(refused(r#"{"start":null}"#, Nulls::Clear), "Invalid parameter: start must be given.");
    for nulls in [Nulls::Absent, Nulls::Clear] {
        let unknown = refused(r#"{"strt":null}"#, nulls);
        assert_eq!(unknown, "Invalid parameter: strt is not known; did you mean start?");
        assert_eq!(refused(r#"{"size":null,"size":1}"#, nulls), "Invalid parameter: size must be given only once.");
        assert_eq!(refused(r#"{"inner":[null]}"#, nulls), "Invalid parameter: inner must be an object, not an array.");
    }
    assert_eq!(object::<Change>(br#"{"start":null}"#, Nulls::Absent), Ok(Change::default()));
}

#[test]
fn every_list_has_a_bound() {
    let cores = |count: usize| format!(r#"{{"vcpus":1,"cpu_pinning":{{"cores":[{}]}}}}"#, vec!["0"; count].join(","));
    assert_eq!(read(&cores(1024)).unwrap().cpu_pinning.unwrap().cores.len(), 1024);
    assert_eq!(sentence(&cores(1025)), "Invalid parameter: cpu_pinning.cores must have at most 1024 entries.");
}

#[test]
fn long_values_are_repeated_in_part_only() {
    let long = "é".repeat(5000);
    let s = sentence(&format!("{{\"vcpus\":\"{long}\"}}"));
    assert!(s.len() < 200, "{}", s.len());
    let s = sentence(&format!("{{\"{long}\":1}}"));
    assert!(s.chars().count() < 300, "{s}");
}
