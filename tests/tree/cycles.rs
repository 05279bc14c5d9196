//! No two modules beside one another use each other, however long the way round: each can be read, and replaced, after
//! those that it uses.

use crate::source::Source;
use crate::use_graph::UseGraph;

#[test]
fn no_modules_use_one_another() {
    let found = UseGraph::of(&Source::all()).cycles();
    assert_eq!(found, Vec::<String>::new(), "modules that use one another");
}

/// The rule is worth what the reading of the sources is worth.
#[test]
fn a_cycle_is_found_through_paths_re_exports_and_folders() {
    let cycles = |files: &[(&str, &str)]| {
        let sources: Vec<Source> = files.iter().map(|(path, text)| Source::parse(path, text)).collect();
        UseGraph::of(&sources).cycles()
    };
    let none: &[&str] = &[];
    let parent = ("a/mod.rs", "mod x;\nmod y;\nmod z;\npub use x::{self as ex, Thing as Other};\npub struct Own;");
    let face = ("a/x.rs", "use super::Own;\nuse super::z::Z;\npub struct Thing;");
    assert_eq!(cycles(&[parent, face, ("a/z.rs", "pub struct Z;")]), none, "a parent and its children");
    let back = ("a/y.rs", "use std::fmt;\nuse super::{Own, Other};\n");
    let through = ("a/z.rs", "fn f() -> super::y::T { todo() }");
    assert_eq!(cycles(&[parent, face, back, through]), ["a::{x, y, z}"], "by a re-export, and by a path");
    let only_tests = ("a/z.rs", "#[cfg(test)]\nmod tests {\n    use crate::a::y::T;\n}\n// super::y::T\n");
    assert_eq!(cycles(&[parent, face, back, only_tests]), none, "tests and comments");
    let deep = [("b/mod.rs", "pub mod c;"), ("b/c/mod.rs", "mod d;"), ("b/c/d.rs", "use crate::{e::{F, g::*}};")];
    let up = [("e/mod.rs", "pub mod g;\npub struct F;"), ("e/g.rs", "pub(super) use crate::b::c as h;")];
    assert_eq!(cycles(&[&deep[..], &up[..]].concat()), ["{b, e}"], "between folders");
}
