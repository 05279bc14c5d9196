//! Which module uses which, out of the sources of `source.rs`: through `use` or a path, re-exports followed to where the
//! item is. Test code does not count, and neither does what is between a module and those inside it: a parent is the face
//! of its children, and they may lean on it.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Source;

/// A path below the root: `vm::effect::cpu`.
type Path = Vec<String>;

pub struct UseGraph {
    /// What the code of a module says.
    code: BTreeMap<Path, String>,
    /// What a module gives on under a name.
    exports: BTreeMap<Path, BTreeMap<String, Path>>,
}

impl UseGraph {
    pub fn of(sources: &[Source]) -> Self {
        let code: BTreeMap<Path, String> = sources
            .iter()
            .filter(|source| !source.is_test && source.path != "main.rs")
            .map(|source| {
                (module(&source.path), source.product_lines().map(|(_, line)| line.to_owned() + "\n").collect())
            })
            .collect();
        let mut graph = Self { code, exports: BTreeMap::new() };
        graph.exports =
            graph.code.iter().map(|(module, code)| (module.clone(), graph.exported(module, code))).collect();
        graph
    }

    /// Groups of siblings that use one another, each sorted, such as `vm::{actor, live}`.
    pub fn cycles(&self) -> Vec<String> {
        let mut uses: BTreeMap<Path, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for (from, code) in &self.code {
            for to in self.named(from, code) {
                // The two siblings that they are or lie in; none where one lies in the other.
                let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                if let (Some(user), Some(used)) = (from.get(common), to.get(common)) {
                    let siblings = uses.entry(from[..common].to_vec()).or_default();
                    siblings.entry(user.clone()).or_default().insert(used.clone());
                }
            }
        }
        let groups = uses.iter().flat_map(|(parent, siblings)| {
            knots(siblings).into_iter().map(|knot| match parent.join("::").as_str() {
                "" => format!("{{{}}}", knot.join(", ")),
                parent => format!("{parent}::{{{}}}", knot.join(", ")),
            })
        });
        groups.collect()
    }

    /// The modules in which what a module names is defined.
    fn named(&self, from: &Path, code: &str) -> BTreeSet<Path> {
        let paths = imports(code).into_iter().map(|import| import.path).chain(inline(code));
        paths.filter_map(|path| self.resolve(from, &path, 8)).collect()
    }

    fn exported(&self, module: &Path, code: &str) -> BTreeMap<String, Path> {
        let public = imports(code).into_iter().filter(|import| import.public);
        public.filter_map(|import| Some((import.name, self.absolute(module, &import.path)?))).collect()
    }

    /// A path from the root, if it is one of this crate.
    fn absolute(&self, from: &Path, path: &[String]) -> Option<Path> {
        let mut at = from.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                let climbs = path.iter().take_while(|part| *part == "super").count();
                at.truncate(from.len().checked_sub(climbs)?);
                rest = &path[climbs - 1..];
            }
            // A child, named without more words.
            name if self.is_module(&child(from, name)) => return Some([from.clone(), path.to_vec()].concat()),
            _ => return None,
        }
        at.extend_from_slice(&rest[1..]);
        Some(at)
    }

    fn resolve(&self, from: &Path, path: &[String], patience: u8) -> Option<Path> {
        let path = self.absolute(from, path)?;
        let mut at = Path::new();
        for (index, name) in path.iter().enumerate() {
            let next = child(&at, name);
            if self.is_module(&next) {
                at = next;
                continue;
            }
            let target = self.exports.get(&at).and_then(|exports| exports.get(name)).filter(|_| patience > 0);
            return match target {
                Some(target) => {
                    let whole = [vec!["crate".to_owned()], target.clone(), path[index + 1..].to_vec()].concat();
                    self.resolve(&Path::new(), &whole, patience - 1)
                }
                None => Some(at),
            };
        }
        Some(at)
    }

    fn is_module(&self, path: &Path) -> bool {
        self.code.contains_key(path)
    }
}

fn module(file: &str) -> Path {
    let path = file.trim_end_matches(".rs");
    if path == "lib" {
        return Path::new();
    }
    path.split('/').filter(|part| *part != "mod").map(str::to_owned).collect()
}

fn child(parent: &Path, name: &str) -> Path {
    [parent.clone(), vec![name.to_owned()]].concat()
}

struct Import {
    path: Path,
    name: String,
    public: bool,
}

/// Every leaf of every `use`.
fn imports(code: &str) -> Vec<Import> {
    let mut found = Vec::new();
    for (start, end) in statements(code) {
        let public =
            code[..start].trim_end().rsplit(['\n', ';', '}', '{']).next().is_some_and(|b| b.starts_with("pub"));
        let mut leaves = Vec::new();
        leaf(&code[start + "use ".len()..end], &Path::new(), &mut leaves);
        found.extend(leaves.into_iter().map(|(path, name)| Import { path, name, public }));
    }
    found
}

/// Where each `use …;` begins and ends.
fn statements(code: &str) -> Vec<(usize, usize)> {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    let starts = code.match_indices("use ").map(|(at, _)| at);
    starts.filter(|at| !code[..*at].ends_with(letter)).filter_map(|at| Some((at, at + code[at..].find(';')?))).collect()
}

/// `a::{b, c::d as e}` as its leaves, each with the name that it gets.
fn leaf(text: &str, before: &Path, found: &mut Vec<(Path, String)>) {
    let text = text.trim();
    if let Some((head, group)) = text.split_once('{') {
        let head: Path = before.iter().cloned().chain(parts(head)).collect();
        let group = &group[..group.rfind('}').unwrap_or(group.len())];
        let (mut depth, mut from) = (0, 0);
        for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    if !group[from..at].trim().is_empty() {
                        leaf(&group[from..at], &head, found);
                    }
                    from = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let (path, name) = text.split_once(" as ").map_or((text, None), |(path, name)| (path, Some(name)));
    let mut path: Path = before.iter().cloned().chain(parts(path)).collect();
    if path.last().is_some_and(|last| last == "self" && path.len() > 1 || last == "*") {
        path.pop();
    }
    let name = name.map(|name| name.trim().to_owned()).or_else(|| path.last().cloned());
    found.extend(name.map(|name| (path, name)));
}

fn parts(path: &str) -> impl Iterator<Item = String> {
    path.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned)
}

/// Paths that begin with `crate`, `self` or `super`, outside of `use`.
fn inline(code: &str) -> Vec<Path> {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    let imports = statements(code);
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            let inside = imports.iter().any(|(from, to)| (from..to).contains(&&at));
            let before = &code[..at];
            if inside || before.ends_with(letter) || before.ends_with("::") || before.ends_with("in ") {
                continue;
            }
            let end = code[at..].find(|c| !letter(c) && c != ':').map_or(code.len(), |length| at + length);
            found.push(parts(&code[at..end]).collect());
        }
    }
    found
}

/// Groups of which each reaches each other one.
fn knots(uses: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reached = |from: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            open.extend(uses.get(at).into_iter().flatten().filter(|next| seen.insert((*next).clone())));
        }
        seen
    };
    let reach: BTreeMap<&String, BTreeSet<String>> = uses.keys().map(|name| (name, reached(name))).collect();
    let mut groups: BTreeSet<Vec<String>> = BTreeSet::new();
    for (name, there) in &reach {
        let back = |other: &&String| reach.get(*other).is_some_and(|back| back.contains(*name));
        let group: Vec<String> = there.iter().filter(back).cloned().collect();
        if group.len() > 1 {
            groups.insert(group);
        }
    }
    groups.into_iter().collect()
}
