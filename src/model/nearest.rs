//! What somebody may have meant who mistyped a name.

/// The known name that `name` is a slip of, if one is near enough to be worth suggesting.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // Nobody mistypes a name of this length; and the work is quadratic.
    if name.len() > 40 {
        return None;
    }
    let folded = fold(name);
    known
        .iter()
        .map(|k| (distance(&folded, &fold(k)), *k))
        .filter(|(d, k)| *d <= (k.len() / 3).clamp(1, 3))
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Case and separators are the usual difference between the dialects: `memoryMB`, `memory_mb`.
fn fold(name: &str) -> Vec<char> {
    name.chars().filter(|c| *c != '_' && *c != '-').flat_map(char::to_lowercase).collect()
}

/// Edits from one to the other, of which two letters that have changed places are one. Two rows are kept.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replaced = last[j] + usize::from(x != y);
            let mut least = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *y && *x == b[j - 1] {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_answered_with_the_name_that_was_meant() {
        let known = ["vcpus", "memory", "disk_size", "base_image"];
        for (slip, meant) in [
            ("vcpu", Some("vcpus")),
            ("memroy", Some("memory")),
            ("diskSize", Some("disk_size")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(slip, &known), meant, "{slip}");
        }
    }

    #[test]
    fn distance_counts_edits() {
        let d = |a: &str, b: &str| distance(&fold(a), &fold(b));
        assert_eq!(d("kitten", "sitting"), 3);
        assert_eq!(d("", "abc"), 3);
        assert_eq!(d("same", "same"), 0);
        assert_eq!((d("wbe", "web"), d("abc", "cab"), d("ab", "ba")), (1, 2, 1));
    }
}
